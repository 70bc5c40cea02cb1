"""The seam of filters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from wavetune.federation.codecs import Context, Tensors
from wavetune.federation.codecs.codec import are_tensors
from wavetune.federation.facts import ADAPTERS, BY_SERVER, COUNTED_ONCE, INDIVIDUAL, UNJUDGED
from wavetune.federation.updates import Inbox
from wavetune.guarded import Checks, pair_of
from wavetune.parts import Part


def _check_take(_: Filter, found: Any, *__: Any) -> str:
    from wavetune.federation.updates import Inbox

    pair = pair_of(found)
    fits = pair is not None and isinstance(pair[0], Inbox) and are_tensors(pair[1])
    return "" if fits else "an Inbox and what it remembers, a dict of tensors"


class Filter(Part):
    """What a server makes of the updates that came before it mixes them.

    State is named tensors, passed in and out; what is kept of client 3's update is named `3|...`, so that it can be
    forgotten once the client's update proves unusable. One that leaves every update and its weight as they are says so
    by `removes = ()`.
    """

    home = "wavetune.federation.filters"
    checks: ClassVar[Checks] = {"take": _check_take}
    needs = (ADAPTERS, BY_SERVER, INDIVIDUAL)
    removes = (UNJUDGED,)

    def take(self, inbox: Inbox, state: Tensors, context: Context) -> tuple[Inbox, Tensors]:
        """What is to be mixed of what came."""
        raise NotImplementedError

    def forget(self, state: Tensors, client: int) -> Tensors:
        """The state without what is kept of a client's update."""
        return {name: t for name, t in state.items() if not name.startswith(f"{client}|")}


class Fill(Filter):
    """What stands in for updates that took part in a round and did not arrive."""

    needs = ()
    removes = (COUNTED_ONCE,)


@dataclass(frozen=True)
class Skip(Fill):
    """A missing update is left out and the others count for more."""

    removes = ()

    def take(self, inbox: Inbox, state: Tensors, context: Context) -> tuple[Inbox, Tensors]:
        """The updates that came."""
        return inbox, state
