"""Every exception that misuse can raise; each also inherits the standard type a caller would expect.

Nature (an outage, an infeasible plan, a dead device) never raises: it comes back as a status with a sentence. Only who
asked for a whole run from Python, of which there is none without a plan, is told by an exception.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class WavetuneError(Exception):
    """Root of the tree. The message is one sentence: what, where, which range, what to do."""


class ConfigError(WavetuneError, ValueError):
    """A recipe, setting or argument is outside what is allowed."""


class DataError(WavetuneError, ValueError):
    """A data file is missing, malformed or too small for what was asked."""


class ModelError(WavetuneError, ValueError):
    """A model cannot be found, read, verified or used."""


class JsonError(WavetuneError, ValueError):
    """A file or text cannot be read as JSON; `reason` says why and where in it, the message names the file too."""

    def __init__(self, reason: str, file: object = None) -> None:
        super().__init__(reason if file is None else f"cannot read {file}: {reason}")
        self.reason = reason


class NotJsonError(JsonError):
    """A text is no JSON at all: it breaks JSON's grammar."""


class InstanceError(WavetuneError, ValueError):
    """A plan instance is malformed; the message starts with the JSON path."""


class InfeasibleError(WavetuneError, ValueError):
    """A run was asked for in a world that admits no plan; the message says which limits bind."""


class PlanError(WavetuneError, RuntimeError):
    """A planner broke a constraint of its own problem: a fault of wavetune, not of its user."""


class PartError(WavetuneError, RuntimeError):
    """The code of somebody else's part failed, or returned what cannot be used; names part, method, file and line."""


class RunFolderError(WavetuneError, OSError):
    """A run folder cannot be written, read or continued."""


class DeploymentError(WavetuneError, ConnectionError):
    """A server or device cannot be reached, does not come, or refuses; names the status it gave."""


class NumericsError(WavetuneError, ArithmeticError):
    """A loss or tensor stopped being finite; names round, client and tensor."""


def one_line(error: object, most: int = 300) -> str:
    """What an error says, in one line of at most so many characters.

    >>> one_line(ValueError("no   header"))
    'no header'
    """
    return " ".join(str(error).split())[:most]


def first_line(error: Exception) -> str:
    """The first line of what an error says; its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def nearest(word: str, choices: Iterable[str]) -> str:
    """Sentence that offers the nearest of `choices` to a mistyped `word`, or lists them all.

    >>> nearest("rnak", ["rank", "cut"])
    "did you mean 'rank'?"
    """
    known = sorted(choices)
    if not known:
        return "there is none to choose"
    close = get_close_matches(word[:100], known, n=3, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(repr(c) for c in close) + "?"
    return "choose one of " + ", ".join(known)
