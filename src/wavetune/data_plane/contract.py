"""What a device's stream of one round may hold: frames of fixed kinds in a fixed order, checked to the last tensor.

Labels at the server: in every local step the activations and labels go up, gradients come down. Labels at the client
(U-shape): activations go up and others come down, then gradients go up and others come down; no token id, label, label
position or logit is in any field that would be accepted. At the end the adapters go up and the mixture comes down. From
a device that trains the whole model these are all, with the losses of its local steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from wavetune.data_plane import PROTOCOL_VERSION
from wavetune.data_plane.bounds import out_of_bounds
from wavetune.data_plane.messages_pb2 import Frame, Hello, Layout, Loss
from wavetune.data_plane.payloads import LABELS, as_tensors, check_labels, check_message, check_values, spec_of, unpack
from wavetune.data_plane.refusal import Reason, RefusedError
from wavetune.federation.codecs import Chain, Codec, Payload
from wavetune.federation.codecs.codec import on_the_wire
from wavetune.federation.messages import Spec, bits_of, label_fields

_PART_BYTES, _FRAME_BYTES = 1024, 1 << 16  # at most, besides values
_LOSS_BYTES = 32
_FIELDS = {
    "hello": {"hello"},
    "activations_up": {"layout", "parts"},
    "gradients_up": {"loss", "parts"},
    "adapters_up": {"parts"},
}


@dataclass(frozen=True)
class Arrived:
    """A frame that was accepted: of which stage, and its payloads in the order of its parts."""

    stage: str
    payloads: tuple[tuple[str, Payload], ...] = ()
    lengths: tuple[int, ...] = ()
    label_positions: tuple[int, ...] = ()
    nll: float = 0.0
    labelled: int = 0
    losses: tuple[Loss, ...] = ()  # of every local step, where nothing else is heard of it

    def one(self, kind: str) -> Payload:
        """The payload of a kind that occurs once."""
        return dict(self.payloads)[kind]


@dataclass(frozen=True)
class Contract:
    """What one device may send in one round. `adapters` are declared before their chain; none cross where
    it is empty.

    Without a cut (`uncut`) no activations cross, `cut` is the number of blocks and the codecs of the cut are not used.
    """

    client: int
    u_shape: bool
    local_steps: int
    width: int
    cut: int
    batch_size: int
    max_row_tokens: int
    vocabulary: int
    activation_codec: Codec
    gradient_codec: Codec
    chain: Chain
    adapters: Spec
    uncut: bool = False

    @property
    def stages(self) -> tuple[str, ...]:
        """Kinds of the device's frames, in order."""
        if self.uncut:
            return ("hello", "adapters_up")
        step = ("activations_up", "gradients_up") if self.u_shape else ("activations_up",)
        return ("hello", *step * self.local_steps, "adapters_up")

    @property
    def max_frame_bytes(self) -> int:
        """No frame that would be accepted is larger."""
        tokens = 0 if self.uncut else self.batch_size * self.max_row_tokens
        codecs = (self.activation_codec, self.gradient_codec) if self.u_shape else (self.activation_codec,)
        step_bits = max(codec.bits(tokens, self.width) for codec in codecs)
        adapter_bits = bits_of(on_the_wire(self.chain, self.adapters))
        per_token = 4 + 5 + 5  # a label, its position, and a row's length where all rows are short
        most = max(step_bits / 8 + per_token * tokens, adapter_bits / 8 + _PART_BYTES * (1 + len(self.adapters)))
        return int(most) + _LOSS_BYTES * self.local_steps + _FRAME_BYTES

    def accept(self, sequence: int, frame: Frame, tokens: int) -> Arrived:
        """What a frame brings as the stream's frame number `sequence`; `tokens` are those of the step under way.

        Raises RefusedError where it is not exactly what is due.
        """
        if frame.sequence != sequence:
            reason = Reason.DUPLICATE if frame.sequence < sequence else Reason.OUT_OF_TURN
            raise RefusedError(reason, f"frame {frame.sequence} of client {self.client} came where {sequence} was due")
        if sequence >= len(self.stages):
            raise RefusedError(Reason.OUT_OF_TURN, f"client {self.client} has sent all that this round takes")
        stage = self.stages[sequence]
        layout = frame.layout
        entries = max(map(len, (frame.parts, frame.losses, layout.lengths, layout.label_positions)))
        if entries > self.local_steps + self.batch_size * self.max_row_tokens:  # before anyone looks at each of them
            raise RefusedError(Reason.MALFORMED, f"{stage} of client {self.client}: holds {entries} entries of a kind")
        taken = _FIELDS[stage] | ({"losses"} if self.uncut and stage == "adapters_up" else set())
        if strange := sorted({field.name for field, _ in frame.ListFields()} - taken - {"sequence", "sent_at_s"}):
            raise RefusedError(Reason.MALFORMED, f"client {self.client} sent {strange[0]} where {stage} was due")
        what = f"{stage} of client {self.client}"
        if wrong := out_of_bounds(frame):
            raise RefusedError(Reason.NOT_FINITE, f"{what}: {wrong}")
        if stage == "hello":
            return self._hello(frame.hello)
        if stage == "activations_up":
            return self._activations(frame, what)
        if stage == "gradients_up":
            return self._gradients(frame, tokens, what)
        return self._adapters(frame, what)

    def _hello(self, hello: Hello) -> Arrived:
        if hello.version != PROTOCOL_VERSION:
            raise RefusedError(
                Reason.OTHER_VERSION,
                f"client {self.client} speaks version {hello.version} of the protocol, the server {PROTOCOL_VERSION}; "
                "install the same wavetune on both",
            )
        if (hello.width, hello.cut) != (self.width, self.cut):
            raise RefusedError(
                Reason.MALFORMED,
                f"client {self.client} runs {hello.cut} blocks of width {hello.width}, "
                f"the plan has {self.cut} of width {self.width}",
            )
        return Arrived("hello")

    def _activations(self, frame: Frame, what: str) -> Arrived:
        lengths, positions = self._layout(frame.layout, what)
        tokens, wanted = sum(lengths), ["activations_up"] if self.u_shape else ["activations_up", LABELS]
        contents = _contents(frame, wanted, what)
        payload = unpack(contents[0], spec_of(self.activation_codec, tokens, self.width), what)
        check_values(payload, self.activation_codec, (tokens, self.width), what)
        payloads = [("activations_up", payload)]
        if not self.u_shape:
            labels = unpack(contents[1], as_tensors(label_fields(len(positions))), what)
            check_labels(labels, self.vocabulary, what)
            payloads.append((LABELS, labels))
        return Arrived("activations_up", tuple(payloads), lengths, positions)

    def _layout(self, layout: Layout, what: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        lengths, positions = tuple(layout.lengths), tuple(layout.label_positions)
        if not 1 <= len(lengths) <= self.batch_size or not all(1 <= n <= self.max_row_tokens for n in lengths):
            raise RefusedError(
                Reason.MALFORMED,
                f"{what}: a batch has 1 to {self.batch_size} rows of 1 to {self.max_row_tokens} tokens, "
                f"not {list(lengths[:8])}",
            )
        rising = all(a < b for a, b in pairwise(positions))
        if self.u_shape and positions:
            raise RefusedError(Reason.MALFORMED, f"{what}: label positions came though labels stay with the client")
        if not self.u_shape and not (positions and rising and positions[-1] < sum(lengths)):
            raise RefusedError(Reason.MALFORMED, f"{what}: label positions do not rise within the batch")
        return lengths, positions

    def _gradients(self, frame: Frame, tokens: int, what: str) -> Arrived:
        (content,) = _contents(frame, ["gradients_up"], what)
        payload = unpack(content, spec_of(self.gradient_codec, tokens, self.width), what)
        check_values(payload, self.gradient_codec, (tokens, self.width), what)
        loss: Loss = frame.loss
        _check_loss(loss, tokens, what)
        return Arrived("gradients_up", (("gradients_up", payload),), nll=loss.nll, labelled=loss.labelled)

    def _adapters(self, frame: Frame, what: str) -> Arrived:
        payloads = list[tuple[str, Payload]]()
        for content in _contents(frame, ["adapters_up"] * bool(self.adapters), what):
            payload = unpack(content, as_tensors(on_the_wire(self.chain, self.adapters)), what)
            check_message(payload, self.chain, self.adapters, what)
            payloads.append(("adapters_up", payload))
        if self.uncut:
            self._check_losses(frame.losses, what)
        return Arrived("adapters_up", tuple(payloads), losses=tuple(frame.losses))

    def _check_losses(self, losses: Sequence[Loss], what: str) -> None:
        if len(losses) != self.local_steps:
            raise RefusedError(
                Reason.MALFORMED, f"{what}: tells the losses of {len(losses)} local steps, not of {self.local_steps}"
            )
        for loss in losses:
            if loss.tokens > self.batch_size * self.max_row_tokens:
                raise RefusedError(Reason.MALFORMED, f"{what}: claims a batch of {loss.tokens} tokens")
            _check_loss(loss, loss.tokens, what)


def _check_loss(loss: Loss, tokens: int, what: str) -> None:
    if not 1 <= loss.labelled <= tokens:
        raise RefusedError(Reason.MALFORMED, f"{what}: a loss over {loss.labelled} labels of {tokens} tokens")


def _contents(frame: Frame, kinds: Sequence[str], what: str) -> list[bytes]:
    found = [part.kind for part in frame.parts]
    if found != list(kinds):
        raise RefusedError(
            Reason.MALFORMED, f"{what}: holds {len(found)} parts {found[:3]}, not {len(kinds)} {kinds[:3]}"
        )
    return [part.tensors for part in frame.parts]
