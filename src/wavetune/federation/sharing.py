"""Who sees which adapters: shared ones are sent, averaged and broadcast, personal ones never leave their client."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge

from wavetune.costs.adapter import AdapterSite
from wavetune.errors import ConfigError
from wavetune.federation.facts import ADAPTERS, BOTH_FACTORS, KEPT_LORA, PRIVATE_LORA, WHOLE_MODEL
from wavetune.federation.mixing import Mixing
from wavetune.parts import Extent, Fact, Part

Role = Literal["shared", "personal", "frozen"]


@dataclass(frozen=True)
class Sharing(Part):
    """The role of every adapter, by its kind and block.

    Adapters of the kinds in `shared` (None: of all) are shared, of all blocks or of the last `shared_layers` alone; the
    others are personal. Of shared LoRA one of the `factors` alone may be sent: clients train the other one too and keep
    it, as in FedSA-LoRA (arXiv 2410.01463), which sends A. With `trained_layers` only the last so many blocks are
    trained at all. The base model is always frozen.
    """

    shared: tuple[str, ...] | None = field(default=None, metadata={"needs": (ADAPTERS,)})
    shared_layers: Annotated[int, Ge(0)] | None = field(default=None, metadata={"needs": (ADAPTERS,)})
    factors: Literal["both", "A", "B"] = field(default="both", metadata={"needs": (ADAPTERS, WHOLE_MODEL)})
    trained_layers: Annotated[int, Ge(1)] | None = None

    def removed(self) -> tuple[Fact, ...]:
        """LoRA of clients' own, where all share it, and one of its factors, where clients keep that."""
        kept = (BOTH_FACTORS,) if self.kept_factors else ()
        return (PRIVATE_LORA, KEPT_LORA, *kept) if self.shares("lora") else ()

    def fits(self, path: str, extent: Extent) -> None:
        """Refuse more blocks than the model has, and a factor of LoRA that is not shared."""
        if self.kept_factors and not self.shares("lora"):
            raise ConfigError(f"{path}.factors is {self.factors} but {path}.shared leaves LoRA out; put 'lora' there")
        for name in ("shared_layers", "trained_layers"):
            if (getattr(self, name) or 0) > extent.num_layers:
                raise ConfigError(
                    f"{path}.{name} is {getattr(self, name)} but the model has {extent.num_layers} blocks; give at "
                    "most these"
                )

    @property
    def kept_factors(self) -> frozenset[str]:
        """The factors of shared LoRA that are trained and not sent."""
        return frozenset({"both": "", "A": "B", "B": "A"}[self.factors])

    def unsent(self, mixing: Mixing) -> frozenset[str]:
        """The factors of shared LoRA that stay where they are: those kept, and those that a rule freezes."""
        return self.kept_factors | mixing.frozen

    def shares(self, kind: str) -> bool:
        """Whether adapters of a kind are shared."""
        return self.shared is None or kind in self.shared

    def role(self, kind: str, layer: int, num_layers: int) -> Role:
        """Role of an adapter of block `layer`, counted from 0.

        >>> sharing = Sharing(shared=("bottleneck",), shared_layers=2, trained_layers=3)
        >>> [sharing.role("bottleneck", layer, 4) for layer in range(4)], sharing.role("lora", 3, 4)
        (['frozen', 'personal', 'shared', 'shared'], 'personal')
        """
        from_top = num_layers - layer
        if self.trained_layers is not None and from_top > self.trained_layers:
            return "frozen"
        within = self.shared_layers is None or from_top <= self.shared_layers
        return "shared" if self.shares(kind) and within else "personal"

    def names(self, sites: Collection[AdapterSite], num_layers: int, role: Role) -> frozenset[str]:
        """Names of the sites that have a role."""
        return frozenset(site.name for site in sites if self.role(site.kind, site.layer, num_layers) == role)

    def kept(self, sites: Collection[AdapterSite], num_layers: int) -> frozenset[str]:
        """The matrices `site.matrix` that clients train and keep."""
        roles = {site: self.role(site.kind, site.layer, num_layers) for site in sites}
        return frozenset(
            f"{site.name}.{matrix.name}"
            for site, role in roles.items()
            for matrix in site.matrices
            if role == "personal" or (role == "shared" and site.ranked and matrix.name in self.kept_factors)
        )
