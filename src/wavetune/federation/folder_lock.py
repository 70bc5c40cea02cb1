"""One process at a time writes a folder."""

import errno
import fcntl
import json
import os
import shlex
import socket
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from wavetune.errors import JsonError, RunFolderError
from wavetune.federation.run_folder import ELSEWHERE, explained
from wavetune.json_reader import parse

NAME = ".lock"
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # of a file system that has none


@contextmanager
def locked(folder: Path) -> Generator[None]:
    """Hold a folder, which is made if need be, for the writes of this process.

    The operating system keeps the lock and ends it with the process, whatever kills that, so a lock file that is left
    over holds nobody up. Where the file system has no locks (some network ones), everybody goes in. A folder that was
    made here and is empty in the end is removed again, with its parents that were.

    Raises: RunFolderError naming the process that holds the folder, or if the folder cannot be made or leads elsewhere.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    with explained(folder, ELSEWHERE):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _acquire(folder / NAME, folder)
    try:
        require_own(folder)
        yield
    finally:
        with suppress(OSError):
            (folder / NAME).unlink()
            for path in made:
                path.rmdir()
        os.close(descriptor)


def require_own(folder: Path) -> None:
    """Raise RunFolderError for a link that leads out of a folder: what is written or removed there would be elsewhere.

    What is hidden is left alone, as nobody here writes it.
    """
    home = os.path.realpath(folder)
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for path in (os.path.join(place, name) for name in (*folders, *files)):
            if os.path.islink(path) and os.path.commonpath([home, os.path.realpath(path)]) != home:
                raise RunFolderError(f"{path} is a link that leads out of {folder}; put what it leads to in its place")


def is_held(folder: Path) -> bool:
    """Whether a process is at work in a folder, as far as this machine can tell; takes nothing from it."""
    try:
        about: Any = parse((folder / NAME).read_text())
        if about["host"] != socket.gethostname():
            return True
        os.kill(int(about["pid"]), 0)
    except PermissionError:
        return True
    except (OSError, UnicodeDecodeError, JsonError, KeyError, TypeError, ValueError, OverflowError):
        return False
    return True


def _acquire(path: Path, folder: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                holder = _holder(descriptor)
                os.close(descriptor)
                raise RunFolderError(
                    f"{folder} is in use by {holder}; wait until it ends, stop it, or choose another place"
                ) from None
        if _is_still(path, descriptor):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, _about_me(), 0)
            return descriptor
        os.close(descriptor)


def _is_still(path: Path, descriptor: int) -> bool:
    """Whether the lock is the file at that path: its last holder may just have removed it."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _about_me() -> bytes:
    about = {"pid": os.getpid(), "host": socket.gethostname(), "command": shlex.join(["wavetune", *sys.argv[1:]])}
    return json.dumps(about).encode()


def _holder(descriptor: int) -> str:
    try:
        about: Any = parse(os.pread(descriptor, 10_000, 0).decode())
        return f"process {about['pid']} on {about['host']} ({about['command']})"
    except (OSError, UnicodeDecodeError, JsonError, KeyError, TypeError):
        return "another process"
