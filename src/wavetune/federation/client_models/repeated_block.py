"""One block of the servers' model in the place of all: as deep, with the weights of one."""

from collections.abc import Container
from dataclasses import dataclass, replace
from typing import Annotated, Any

from annotated_types import Ge

from wavetune.costs.architecture import Architecture
from wavetune.errors import ConfigError, ModelError
from wavetune.federation.client_models.client_model import ClientModel
from wavetune.federation.distillation import Distillation
from wavetune.parts import Extent


@dataclass(frozen=True)
class RepeatedBlock(ClientModel):
    """The block with this number (from 0), as often as the model has blocks, behind its embedding and under its head.

    A pass costs what one through the servers' model does; of the blocks' memory one part of so many is left. Adapters
    are each block's own; those that clients keep are trained by `distil` first, where that is set. After the auxiliary
    model of FedSP, arXiv 2311.06805, as its public program makes it; there the block's weights are trained.
    """

    block: Annotated[int, Ge(0)] = 0
    distil: Distillation | None = None

    @property
    def distillation(self) -> Distillation | None:
        """As set."""
        return self.distil

    def fits(self, path: str, extent: Extent) -> None:
        """Refuse a block that the model does not have."""
        if self.block >= extent.num_layers:
            raise ConfigError(
                f"{path}.block is {self.block} but the model's {extent.num_layers} blocks are counted from 0; give a "
                "lower one"
            )

    def architecture(self, servers: Architecture) -> Architecture:
        """Equal blocks, of which the first alone takes memory."""
        one = servers.blocks[self.block]
        return replace(servers, blocks=(one, *[replace(one, values=0)] * (servers.num_layers - 1)))

    def blocks(self, num_layers: int) -> Container[int]:
        """The first."""
        return (0,)

    def make(self, model: Any) -> None:
        """Let all blocks have the parameters of one."""
        from wavetune.models.structure import find_blocks

        blocks = model.get_submodule(find_blocks(model))
        own = dict(blocks[self.block].named_parameters())
        for other in blocks:
            shapes = {name: p.shape for name, p in other.named_parameters()}
            if shapes != {name: p.shape for name, p in own.items()}:
                raise ModelError(
                    f"the blocks of a {type(model).__name__} are not all alike, so that none can stand for the others; "
                    "set method.client_model=null"
                )
            for name, parameter in own.items():
                place, _, last = name.rpartition(".")
                setattr(other.get_submodule(place), last, parameter)
