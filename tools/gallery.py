"""MkDocs hook: the gallery of systems, a section a recipe with a picture, both made from the recipe itself."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

from wavetune import recipes

DOCS = Path(__file__).resolve().parents[1] / "docs"
PLAIN = "fedavg_lora"
SHARED, PERSONAL, LINE = "#3b6fd4", "#d97a1f", "#555"
BLOCKS, CLIENTS = 6, 3


def on_files(files: Any, *, config: Any) -> Any:
    """Add the page and its pictures to the site."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, "gallery.md", content=page()))
    for name in recipes.names():
        files.append(File.generated(config, f"gallery/{name}.svg", content=picture(name)))
    return files


def page() -> str:
    """The gallery: every recipe that wavetune brings along."""
    head = (
        "# Gallery of systems\n\nEvery recipe that wavetune brings along. Blue blocks carry adapters that are shared, "
        "orange ones such as never leave their client, and dashed ones are elsewhere. What differs is told from "
        f"[`{PLAIN}`](#{PLAIN}). [`wavetune rank`](rank.md) has numbers side by side.\n"
    )
    return "\n".join([head, *map(section, recipes.names())])


def section(name: str) -> str:
    """What a recipe is, from where, as a picture, in settings, and how it is run."""
    told = importlib.import_module(f"wavetune.recipes.{name}").__doc__ or ""
    first, _, rest = told.partition("\n\n")
    lines = [f"## {name}", " ".join(first.split()), " ".join(rest.split())]
    lines += [f"![{_sentence(name)}](gallery/{name}.svg)"]
    changed = list(_differences(_method(PLAIN), _method(name)))
    if changed:
        lines += ["| setting | value |\n| --- | --- |\n" + "\n".join(f"| `method.{p}` | {v} |" for p, v in changed)]
    lines += [f"```bash\nwavetune plan {name}\nwavetune run {name} --model {_tiny(name)}\n```"]
    if (DOCS / f"{name}.md").exists():
        lines += [f"More: [{name}]({name}.md)."]
    return "\n\n".join(line for line in lines if line) + "\n"


def _method(name: str) -> dict[str, Any]:
    method = recipes.get(name).to_dict()["method"]
    return {key: value for key, value in method.items() if key not in ("title", "rounds_to_target", "codec_candidates")}


def _tiny(name: str) -> str:
    return "tiny-bert" if recipes.get(name).to_dict()["world"]["data"]["template"]["kind"] == "class" else "tiny"


def _sentence(name: str) -> str:
    return recipes.title(name).replace("[", "(").replace("]", ")")


def _differences(one: Any, other: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Settings of the second that are not those of the first, by path."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in other:
            if key in one or not path or "kind" not in other or other["kind"] != one.get("kind"):
                yield from _differences(one.get(key), other[key], f"{path}.{key}".strip("."))
    elif isinstance(other, Mapping) and one is None:
        yield from ((f"{path}.{key}", f"`{value}`") for key, value in other.items() if not isinstance(value, Mapping))
    elif one != other:
        yield path, "chosen by the planner" if other is None else f"`{other}`".replace("|", "\\|")


def picture(name: str) -> str:
    """Who holds which blocks, what is sent to whom: an SVG."""
    method = _method(name)
    kind, exchange = method["topology"]["kind"], method["exchange"]["kind"]
    draw = _Picture(_sentence(name))
    if kind == "central":
        draw.box(40, 70, "one trainer, everybody's data", 0, BLOCKS, _colours(method))
        return draw.svg()
    cut = (method["topology"].get("cut") or 2) if kind == "split" else BLOCKS
    for client in range(CLIENTS):
        draw.box(20, 20 + 70 * client, f"client {client}", 0, cut, _colours(method))
        if kind == "split":
            draw.arrow(225, 45 + 70 * client, 395, 60, "activations, gradients" if client == 0 else "")
    if kind == "split":
        draw.box(400, 20, "main server", cut, BLOCKS, (SHARED,))
    target, words = _server(exchange, method)
    if exchange == "gossip":
        for client in range(CLIENTS - 1):
            draw.arrow(120, 72 + 70 * client, 120, 88 + 70 * client, "")
        draw.text(260, 125, words)
        return draw.svg()
    head, _, rest = target.partition(": ")
    draw.frame(400, 150, 205, 52, head)
    draw.text(408, 190, rest)
    for client in range(CLIENTS):
        draw.arrow(225, 50 + 70 * client, 395, 175, words if client == 2 else "")
    return draw.svg()


def _colours(method: Mapping[str, Any]) -> tuple[str, ...]:
    """Colours of a client's adapters: shared, personal or both."""
    kinds = {"lora": method["lora"]["rank"] != 0, "bottleneck": method["bottleneck"], "prompt": method["soft_prompt"]}
    there = [kind for kind, given in kinds.items() if given]
    named = method["sharing"]["shared"]
    shared = set(kinds if named is None else named)
    return tuple(sorted({SHARED if kind in shared else PERSONAL for kind in there})) or (SHARED,)


def _server(exchange: str, method: Mapping[str, Any]) -> tuple[str, str]:
    """What stands where adapters meet, and what is written beside the arrows to it."""
    mixing = method["mixing"]["kind"].replace("_", " ")
    if exchange == "gossip":
        return "", f"adapters, {mixing}, among neighbours"
    if exchange == "hierarchical":
        return f"edge servers: each averages, then {mixing}", "adapters"
    if exchange == "over_the_air":
        return "federated server: hears the sum", "analogue adapters, all at once"
    lost = ", some are lost" if method["link"]["kind"] == "outage" else ""
    private = ", clipped and noised" if method["privacy"] else ""
    sent = "adapters of blocks that still move" if exchange == "module_wise" else "adapters"
    sent = "soft prompts" if method["soft_prompt"] and method["lora"]["rank"] == 0 else sent
    sent = "prefixes" if method["sharing"]["shared"] == ["prefix"] else sent
    filters = "".join(f"{part['kind'].replace('_', ' ')}, then " for part in method["filters"])
    return f"federated server: {filters}{mixing}", f"{sent}{private}{lost}"


class _Picture:
    """Boxes and arrows of 620 by 230."""

    def __init__(self, title: str) -> None:
        self.parts = [f"<title>{escape(title)}</title>", '<rect width="620" height="230" fill="#fff"/>']

    def text(self, x: int, y: int, words: str) -> None:
        self.parts.append(f'<text x="{x}" y="{y}">{escape(words)}</text>')

    def frame(self, x: int, y: int, width: int, height: int, words: str) -> None:
        self.parts.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" fill="#f4f6fa" stroke="{LINE}"/>'
        )
        self.text(x + 8, y + 18, words)

    def box(self, x: int, y: int, words: str, first: int, end: int, colours: tuple[str, ...]) -> None:
        """A party with all blocks of the model, of which it holds those from `first` up to `end`."""
        self.frame(x, y, 205, 52, words)
        for block in range(BLOCKS):
            held = first <= block < end
            fill = colours[block % len(colours)] if held else "none"
            dash = "" if held else ' stroke-dasharray="3 2"'
            at = f'x="{x + 10 + 32 * block}" y="{y + 26}" width="26" height="18"'
            self.parts.append(f'<rect {at} rx="3" fill="{fill}" stroke="{LINE}"{dash}/>')

    def arrow(self, x: int, y: int, to_x: int, to_y: int, words: str) -> None:
        line = f'<line x1="{x}" y1="{y}" x2="{to_x}" y2="{to_y}" stroke="{LINE}"'
        self.parts.append(f'{line} marker-end="url(#tip)" marker-start="url(#tip)"/>')
        if words:
            self.text(x + 12, max(y, to_y) + 14 if y > to_y else y - 8, words)

    def svg(self) -> str:
        size = 'viewBox="0 0 8 8" refX="6" refY="4" markerWidth="7" markerHeight="7" orient="auto-start-reverse"'
        tip = f'<marker id="tip" {size}><path d="M0 0L8 4L0 8z" fill="{LINE}"/></marker>'
        body = "\n".join(self.parts)
        head = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 620 230" width="620" height="230" role="img"'
        return f'{head} font-family="sans-serif" font-size="12">\n<defs>{tip}</defs>\n{body}\n</svg>\n'
