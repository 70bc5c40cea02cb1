"""Take the pictures in docs/images: report, watch page and documentation in a headless Chromium.

    wavetune run sflllm
    wavetune deploy sflllm --devices 3 --model tiny --set run.rounds=3 --out runs/deployed
    python tools/screenshots.py runs/sflllm runs/deployed

The first run's report and the second as it stood before its last round, its last device lost by then; `--all FOLDER`
writes every page at 390 and 1280 px, light and dark, to look at. Needs a Chromium or Chrome, and mkdocs for its page.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, chdir, contextmanager
from pathlib import Path

from browser import Browser, browser
from PIL import Image

from wavetune.federation.folder_lock import locked
from wavetune.local_http import served
from wavetune.records.devices import FILE, Devices, SeenDevice
from wavetune.records.fields import as_json
from wavetune.reporting import write_report
from wavetune.reporting.watch import Watch
from wavetune.runtimes.provenance import now

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
PHONE, DESK = (390, 844), (1280, 1180)
MOST_BYTES, COLORS = 200_000, 256


def main() -> None:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("deployed", type=Path, help="folder of a finished deployed run")
    parser.add_argument("--all", type=Path, help="also write every page at both widths and in both schemes here")
    given = parser.parse_args()
    with ExitStack() as stack:
        pages = stack.enter_context(_pages(given.run.resolve(), given.deployed.resolve()))
        seen = stack.enter_context(browser())
        _take(seen, pages["report"], "report", DESK)
        _take(seen, pages["report"], "report-phone", PHONE, dark=True)
        _take(seen, pages["watch"], "watch", (1280, 700))
        if "docs" in pages:
            _take(seen, pages["docs"], "docs", (1280, 900))
        for name, address in pages.items() if given.all else ():
            for size in (PHONE, DESK):
                for scheme in ("light", "dark"):
                    _show(seen, address, size, scheme == "dark")
                    given.all.mkdir(parents=True, exist_ok=True)
                    (given.all / f"{name}-{size[0]}-{scheme}.png").write_bytes(seen.picture(whole=True))


@contextmanager
def _pages(run: Path, deployed: Path) -> Iterator[dict[str, str]]:
    """Addresses of the pages; runs are copied, so that paths on them are those of a reader."""
    with tempfile.TemporaryDirectory() as place, chdir(place), ExitStack() as stack:
        whole, going = Path("runs/sflllm"), Path("runs/deployed")
        shutil.copytree(run, whole)
        shutil.copytree(deployed, going)
        report = write_report([whole], Path("report.html"))
        _before_the_last_round(going)
        stack.enter_context(locked(going))
        pages = {"report": report.resolve().as_uri()}
        pages["watch"] = stack.enter_context(served(Watch(going).pages(), 0))
        if shutil.which("mkdocs", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"):
            site = Path("site").resolve()
            command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(site)]
            subprocess.run(command, cwd=ROOT, check=True)
            pages["docs"] = (site / "index.html").as_uri()
        yield pages


def _before_the_last_round(folder: Path) -> None:
    """Leave of a finished deployed run what it had before its last round, its last device lost in the one before."""
    for name in ("summary.json", "samples.json"):
        (folder / name).unlink()
    rounds = (folder / "rounds.jsonl").read_text().splitlines(keepends=True)[:-1]
    (folder / "rounds.jsonl").write_text("".join(rounds))
    clients = len(json.loads(rounds[-1])["cut_K"])
    devices = [SeenDevice(client, f"device-{client:02d}", True) for client in range(clients)]
    lost = {"lost_in_round": len(rounds) - 1, "lost_why": f"client {clients - 1} left"}
    devices[-1] = SeenDevice(clients - 1, devices[-1].certificate, False, now(), **lost)
    seen = Devices("127.0.0.1:7443", len(rounds), len(rounds) + 1, devices=tuple(devices))
    (folder / FILE).write_text(json.dumps(as_json(seen)))


def _show(seen: Browser, address: str, size: tuple[int, int], dark: bool) -> None:
    seen.show(address, *size, dark)
    seen.value("localStorage.clear()")  # where the documentation keeps the scheme of its first visit
    seen.show(address, *size, dark)
    if address.startswith("http"):
        seen.until("document.querySelector('#live td')")
    scheme = "document.body.dataset.mdColorScheme"  # the documentation's, which a script sets after the page is loaded
    seen.until(f"!{scheme} || ({scheme} == 'slate') == {str(dark).lower()}")


def _take(seen: Browser, address: str, name: str, size: tuple[int, int], dark: bool = False) -> None:
    """One picture of what a window of that size shows, in few colours."""
    _show(seen, address, size, dark)
    picture = Image.open(io.BytesIO(seen.picture())).convert("RGB").quantize(COLORS, dither=Image.Dither.NONE)
    path = IMAGES / f"{name}.png"
    picture.save(path, optimize=True)
    if path.stat().st_size > MOST_BYTES:
        raise SystemExit(f"{path} has {path.stat().st_size} bytes, more than {MOST_BYTES}")
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
