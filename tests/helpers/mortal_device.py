"""`wavetune device` as a process that dies in its round, and is born again as another.

Its lives are `LIVES`. In the last its disk is full for one round, and for its log until the end. It notes in the
diary when it attends and when it died.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

from wavetune.cli import main
from wavetune.runtimes import device

LIVES = ("before its step", "during its step", "after its step", "with a full disk")
BORN, DEAD = "born", "dead"
_ROOM = resource.getrlimit(resource.RLIMIT_FSIZE)


class Mortal(device.Stream):
    """The stream of a device that dies before its first frame, before it sends adapters, or once it has mixed ones."""

    life, opened = "", 0

    def ask(self, parts: Any = (), *arguments: Any, **keywords: Any) -> Any:
        """Ask, unless this is where the life ends."""
        adapters = bool(parts) and parts[0][0] == "adapters_up"
        if not parts:
            Mortal.opened += 1
            if self.life == "before its step":
                die()
            if self.life == "with a full disk":
                resource.setrlimit(resource.RLIMIT_FSIZE, (64 if self.opened == 1 else _ROOM[0], _ROOM[1]))
        if adapters and self.life == "during its step":
            die()
        answer = super().ask(parts, *arguments, **keywords)
        if adapters and self.life == "after its step":
            die()
        return answer


def die() -> None:
    """As a device does whose battery is empty."""
    os.kill(os.getpid(), signal.SIGKILL)


def note(diary: Path, word: str) -> None:
    with diary.open("a", encoding="utf-8") as file:
        file.write(f"{word}\n")


def live(life: str, diary: Path, arguments: list[str]) -> None:
    """One life, to its end."""
    introduce = device.Agent.introduce

    def noted(self: device.Agent) -> Any:
        note(diary, BORN)
        return introduce(self)

    Mortal.life, device.Stream, device.Agent.introduce = life, Mortal, noted
    if life == "with a full disk":
        os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
    sys.argv = ["wavetune", "device", *arguments]
    main()


def live_all(arguments: list[str]) -> None:
    """All lives, of a diary and the arguments of `wavetune device`, in one group of processes; ends with the code of
    the last.
    """
    os.setsid()
    diary, code = Path(arguments[0]), 0
    for each in LIVES:
        pid = os.fork()
        if not pid:
            try:
                live(each, diary, arguments[1:])
            except SystemExit as end:
                os._exit(int(end.code or 0))
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        note(diary, DEAD)
    sys.exit(code)
