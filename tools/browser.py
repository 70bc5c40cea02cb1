"""A headless Chromium that opens pages, answers questions about them and takes pictures."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def executable() -> str | None:
    """Path of a Chromium or Chrome on this machine; None where there is none."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """One page of a running Chromium, which takes calls from one pipe and answers on another."""

    def __init__(self, to: IO[bytes], come: IO[bytes]) -> None:
        self._to, self._come = to, come
        self._number, self._session = 0, ""
        self.events: list[dict[str, Any]] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Answer to one call; what happened meanwhile is added to `events`."""
        self._number += 1
        call = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            call["sessionId"] = self._session
        self._to.write(json.dumps(call).encode() + b"\0")
        while True:
            message = self._next()
            if message.get("id") == self._number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']['message']}")
                return message["result"]
            self.events.append(message)

    def _next(self) -> dict[str, Any]:
        letters = bytearray()
        while (letter := self._come.read(1)) != b"\0":
            if not letter:
                raise RuntimeError("the browser is gone")
            letters += letter
        return json.loads(letters)

    def show(self, address: str, width: int, height: int = 800, dark: bool = False) -> None:
        """Open a page in a window of that many CSS pixels, and wait until it is loaded."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.ask("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.events.clear()
        self.ask("Page.navigate", url=address)
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def value(self, expression: str) -> Any:
        """What a JavaScript expression is on the page; a promise is waited for."""
        found = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"]["exception"].get("description", "the page threw"))
        return found["result"].get("value")

    def until(self, expression: str, seconds: float = 20.0) -> bool:
        """Whether an expression becomes true on the page within that time."""
        wait = f"""new Promise(done => {{ const end = Date.now() + {1000 * seconds};
            (function look() {{ const now = !!({expression});
            if (now || Date.now() > end) done(now); else setTimeout(look, 50) }})() }})"""
        return self.value(wait)

    def picture(self, whole: bool = False) -> bytes:
        """The window, or the whole page, as PNG."""
        options: dict[str, Any] = {"captureBeyondViewport": whole}
        if whole:
            box = self.ask("Page.getLayoutMetrics")["cssContentSize"]
            options["clip"] = {"x": 0, "y": 0, "width": box["width"], "height": box["height"], "scale": 1}
        return base64.b64decode(self.ask("Page.captureScreenshot", **options)["data"])

    def complaints(self) -> list[str]:
        """What the page wrote to the console, threw or could not load since it was opened."""
        names = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded", "Network.loadingFailed")
        return [json.dumps(event["params"]) for event in self.events if event.get("method") in names]


@contextmanager
def browser() -> Iterator[Browser]:
    """A Chromium for this block. Raises RuntimeError where there is none."""
    path = executable()
    if path is None:
        raise RuntimeError(f"there is no browser; install one of {', '.join(NAMES)}")
    (its_in, to), (come, its_out) = os.pipe(), os.pipe()
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe"]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        # Chromium reads calls from descriptor 3 and writes answers to 4
        script = f'exec "$@" 3</dev/fd/{its_in} 4>/dev/fd/{its_out}'
        process = subprocess.Popen(
            ["sh", "-c", script, "sh", path, *options, f"--user-data-dir={Path(profile)}", "about:blank"],
            pass_fds=(its_in, its_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(its_in)
        os.close(its_out)
        try:
            with open(to, "wb", buffering=0) as calls, open(come, "rb") as answers:
                yield Browser(calls, answers)
        finally:
            process.terminate()
            process.wait(20)
