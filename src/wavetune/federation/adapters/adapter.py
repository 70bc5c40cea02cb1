"""Kinds of adapters: what is trained beside a frozen model, declared once for planning, training, wire and files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from wavetune.guarded import Checks
from wavetune.models.adapter import ModelAdapter
from wavetune.parts import Part

if TYPE_CHECKING:
    from torch import Tensor


def _check_forward(_: Adapter, found: Any, x: Tensor, y: Tensor, *__: Any) -> str:
    return "" if getattr(found, "shape", None) == y.shape else f"a tensor {list(y.shape)}, as the map's output"


class Adapter(ModelAdapter, Part):
    """A further kind, beside LoRA and what else a method trains. Every client has one set of its matrices.

    It says what its matrices are and where they stand (`behind`), and what they make of what tokens come to there
    (`forward`). From that follow bits, FLOPs and memory, what is exchanged and what a run leaves behind. Where not all
    is shared, `method.sharing.shared` names it by its `name`.
    """

    home = "wavetune.federation.adapters"
    checks: ClassVar[Checks] = {"forward": _check_forward}
    name: ClassVar[str] = ""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "name" not in vars(cls):
            cls.name = cls.__name__.lower()
