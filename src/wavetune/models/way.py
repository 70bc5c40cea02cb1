"""How the engine runs a stock model, as its check at load finds out."""

from typing import NamedTuple

from wavetune.models.structure import Structure


class Way(NamedTuple):
    """How the engine runs a model: tokens packed in one row or padded, where positions start, whether it can be cut."""

    packed: bool = True
    first_position: int = 0
    cuts: bool = True


class Checked(NamedTuple):
    """What is known of a model after its check."""

    structure: Structure
    way: Way
