"""Error feedback: what a chain leaves out of a message is added to the sender's next one."""

from dataclasses import dataclass

from wavetune.federation.codecs.codec import (
    Context,
    Tensors,
    Transform,
    on_the_wire,
    receive,
    send_with_feedback,
    zeros,
)
from wavetune.federation.codecs.int8 import Int8
from wavetune.federation.facts import COMMON_START, NUMBERS_ALONE, UNROUNDED, VALUES_SENT
from wavetune.federation.messages import Field, Spec


@dataclass(frozen=True)
class Feedback(Transform):
    """What the chain `of` leaves out of a client's change is added to its next change (arXiv 1901.09847)."""

    removes = (UNROUNDED, VALUES_SENT)
    needs = (COMMON_START, NUMBERS_ALONE)
    of_changes = True
    of: tuple[Transform, ...] = (Int8(),)

    def spec(self, spec: Spec) -> dict[str, Field]:
        """What the chain puts on the wire."""
        return on_the_wire(self.of, spec)

    def start(self, spec: Spec) -> Tensors:
        """Nothing has been left out yet."""
        return zeros(spec)

    def send(self, x: Tensors, state: Tensors, context: Context) -> tuple[Tensors, Tensors]:
        """The change and what was left out before, as the chain sends them."""
        return send_with_feedback(self.of, x, state, context)

    def receive(self, x: Tensors, spec: Spec, context: Context) -> Tensors:
        """The change as the chain reads it."""
        return receive(self.of, x, spec, context)
