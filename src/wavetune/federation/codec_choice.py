"""Codecs that may cross the cut, with what each costs in rounds, among which the planner chooses."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, cast

from annotated_types import Gt

from wavetune.errors import ConfigError, JsonError, first_line
from wavetune.federation.codecs import Codec
from wavetune.json_reader import read_json
from wavetune.part_values import read_part
from wavetune.parts import Part


@dataclass(frozen=True)
class CodecCandidate(Part):
    """Codecs of activations and gradients, and the factor on the rounds to the target that was measured for them."""

    activation: Codec = field(metadata={"message": "activations"})
    gradient: Codec = field(metadata={"message": "gradients"})
    rounds_factor: Annotated[float, Gt(0)] = 1.0

    @property
    def sentence(self) -> str:
        """The candidate in words.

        >>> from wavetune.federation.codecs import Bf16, Int8
        >>> CodecCandidate(Int8(outlier_channels=8), Bf16(), 1.05).sentence
        'activations as int8 (outlier_channels 8), gradients as bf16, at 1.05 times the rounds'
        """
        names = (f"{what} as {described(codec)}" for what, codec in (("activations", self.activation),
                                                                     ("gradients", self.gradient)))  # fmt: skip
        return f"{', '.join(names)}, at {self.rounds_factor:.4g} times the rounds"


def described(codec: Codec) -> str:
    """A codec's kind and settings.

    >>> from wavetune.federation.codecs import Fp32
    >>> described(Fp32())
    'fp32'
    """
    settings = ", ".join(f"{f.name} {getattr(codec, f.name)}" for f in fields(cast("Any", codec)))
    return f"{codec.kind} ({settings})" if settings else codec.kind


def read_candidates(path: Path) -> tuple[CodecCandidate, ...]:
    """The candidates of a table that `wavetune measure-codecs` wrote. Raises ConfigError."""
    try:
        values = read_json(path)["candidates"]
        return read_part(tuple[CodecCandidate, ...], values, "candidates")
    except (ValueError, KeyError, TypeError) as error:
        reason = error.reason if isinstance(error, JsonError) else first_line(error)
        raise ConfigError(
            f"cannot read a codec table from {path} ({reason}); `wavetune measure-codecs` writes one"
        ) from None
