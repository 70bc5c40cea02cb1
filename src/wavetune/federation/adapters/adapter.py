"""Kinds of adapters: what is trained beside a frozen model, declared once for planning, training, wire and files."""

from __future__ import annotations

from typing import ClassVar

from wavetune.models.adapter import ModelAdapter
from wavetune.parts import Part


class Adapter(ModelAdapter, Part):
    """A further kind, beside LoRA and what else a method trains. Every client has one set of its matrices.

    It says what its matrices are and where they stand (`behind`), and what they make of what tokens come to there
    (`forward`). From that follow bits, FLOPs and memory, what is exchanged and what a run leaves behind. Where not all
    is shared, `method.sharing.shared` names it by its `name`.
    """

    home = "wavetune.federation.adapters"
    name: ClassVar[str] = ""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "name" not in vars(cls):
            cls.name = cls.__name__.lower()
