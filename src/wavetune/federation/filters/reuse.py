"""The last update of a client stands in for a missing one."""

from dataclasses import dataclass, replace

from wavetune.federation.codecs.codec import Context, Tensors
from wavetune.federation.facts import INDIVIDUAL
from wavetune.federation.filters.filter import Fill
from wavetune.federation.updates import Inbox


@dataclass(frozen=True)
class Reuse(Fill):
    """The adapters of a client that last arrived stand in for those that are missing, if there are any."""

    needs = (INDIVIDUAL,)

    def take(self, inbox: Inbox, state: Tensors, context: Context) -> tuple[Inbox, Tensors]:
        """Fill gaps with what last arrived, and remember what arrived."""
        state = {**state, **{f"{u.sender}|{name}": t for u in inbox.updates for name, t in u.tensors.items()}}
        kept = [
            replace(u, tensors={name: state[f"{u.sender}|{name}"].to(t) for name, t in u.tensors.items()})
            for u in inbox.missing
            if all(f"{u.sender}|{name}" in state for name in u.tensors)
        ]
        return inbox.with_fill(kept), state
