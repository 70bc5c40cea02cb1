// Tooltips that also answer a tap; without this script the browser shows the same words by itself.
(() => {
  const box = document.createElement("div");
  box.id = "tip";
  box.hidden = true;
  document.body.append(box);
  const show = (event) => {
    const owner = event.target.closest?.("[data-tip]");
    box.hidden = !owner;
    if (!owner) return;
    box.textContent = owner.dataset.tip;
    const { offsetWidth: width, offsetHeight: height } = box;
    const left = Math.min(Math.max(8, event.clientX - width / 2), innerWidth - width - 8);
    const above = event.clientY - height - 14;
    box.style.left = `${left}px`;
    box.style.top = `${above < 8 ? event.clientY + 18 : above}px`;
  };
  document.addEventListener("pointermove", show);
  document.addEventListener("pointerdown", show);
  document.addEventListener("scroll", () => { box.hidden = true; }, true);

  // Parts that are folded open where a link leads into them, all at once, and on paper.
  const every = () => [...document.querySelectorAll("details.fold")];
  const lead = () => {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    const own = target.querySelector("details.fold");
    if (own && own.parentNode === target) own.open = true;
    for (let at = target; at; at = at.parentElement) if (at.matches("details.fold")) at.open = true;
    target.scrollIntoView();
  };
  addEventListener("hashchange", lead);
  document.addEventListener("click", (event) => {
    if (event.target.closest?.('a[href^="#"]')) setTimeout(lead);
  });
  lead();
  const all = document.getElementById("unfold");
  all.addEventListener("click", () => {
    const folds = every();
    const opened = folds.some((fold) => !fold.open);
    for (const fold of folds) fold.open = opened;
    all.textContent = opened ? "Close all" : "Open all";
  });
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = every().filter((fold) => !fold.open);
    for (const fold of closed) fold.open = true;
  });
  addEventListener("afterprint", () => { for (const fold of closed) fold.open = false; });

  // A chart as a file of its own: with the colours it has here, which are in the style sheet only.
  const LOOKS = ["fill", "stroke", "stroke-width", "stroke-dasharray", "stroke-linejoin", "stroke-linecap",
    "opacity", "font-size", "font-weight", "font-family", "paint-order"];
  const drawing = (figure) => {
    const shown = [...figure.querySelectorAll(".wide > svg, .narrow > svg")].find((one) => one.getClientRects().length);
    const copy = shown.cloneNode(true);
    const pairs = [copy, ...copy.querySelectorAll("*")].map((to, index) => [to, [shown, ...shown.querySelectorAll("*")][index]]);
    for (const [to, from] of pairs) {
      const style = getComputedStyle(from);
      for (const look of LOOKS) to.setAttribute(look, style.getPropertyValue(look));
      if (from.dataset.tip) {
        const words = document.createElementNS(from.namespaceURI, "title");
        words.textContent = from.dataset.tip;
        to.prepend(words);
      }
      to.removeAttribute("class");
      delete to.dataset.tip;
    }
    copy.setAttribute("xmlns", shown.namespaceURI);
    copy.style.background = getComputedStyle(figure).backgroundColor;
    return new XMLSerializer().serializeToString(copy);
  };
  const offer = (save) => {
    save.hidden = false;
    save.addEventListener("click", () => {
      const link = document.createElement("a");
      link.download = save.dataset.name;
      link.href = URL.createObjectURL(new Blob([drawing(save.closest("figure"))], { type: "image/svg+xml" }));
      link.click();
      URL.revokeObjectURL(link.href);
    });
  };
  // What the elements of a report need from this script, once they are there.
  const dress = () => {
    for (const title of document.querySelectorAll("svg title")) {
      title.parentNode.dataset.tip = title.textContent;
      title.remove();
    }
    all.hidden = !every().length;
    for (const save of document.querySelectorAll("button.svg[hidden]")) offer(save);
  };
  dress();

  // A page that is watched: ask what is new, and take it in without losing the reader's place.
  const live = document.getElementById("live");
  const renew = async () => {
    const page = new DOMParser().parseFromString(await (await fetch("/")).text(), "text/html");
    const opened = every().filter((fold) => fold.open).map((fold) => fold.parentNode.id);
    for (const part of ["main", ".bar nav"]) {
      document.querySelector(part).replaceChildren(...page.querySelector(part).childNodes);
    }
    document.title = page.title;
    for (const fold of every()) fold.open ||= opened.includes(fold.parentNode.id);
    dress();
  };
  const look = async () => {
    try {
      const told = await (await fetch("/live")).json();
      live.innerHTML = told.html;
      if (told.version !== live.dataset.version) {
        await renew();
        live.dataset.version = told.version;
      }
      document.getElementById("away").hidden = true;
    } catch {
      document.getElementById("away").hidden = false;
    }
    setTimeout(look, 2000);
  };
  if (live) look();

  const button = document.getElementById("theme");
  button.hidden = false;
  button.addEventListener("click", () => {
    const dark = getComputedStyle(document.documentElement).colorScheme === "dark"
      || (getComputedStyle(document.documentElement).colorScheme !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
    document.documentElement.style.colorScheme = dark ? "light" : "dark";
  });
})();
