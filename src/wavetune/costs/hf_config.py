"""Reads a Hugging Face model config, refusing what no cost model covers in a sentence that names the key."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from wavetune.errors import ModelError

MIXTURE_KEYS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_intermediate_size")
ATTENTION_LAYERS = ("full_attention", "sliding_attention")


@dataclass(frozen=True)
class ConfigReader:
    """Typed access to a config; every refusal is a ModelError naming the key."""

    config: Mapping[str, object]

    @property
    def family(self) -> str:
        """The config's `model_type`."""
        family = self.config.get("model_type")
        if not isinstance(family, str):
            raise ModelError("the model config has no 'model_type'; give the whole config.json of the model")
        return family

    def positive_int(self, key: str, default: int | None = None) -> int:
        """Whole number >= 1 under `key`, or `default` where the key is absent or null."""
        value = self.config.get(key)
        if value is None:
            value = default
        if value is None:
            raise ModelError(f"the model config has no {key!r}, which a {self.family} model needs")
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ModelError(f"the model config's {key!r} is {value!r}; it must be a whole number >= 1")
        return value

    def flag(self, key: str, default: bool) -> bool:
        """Truth value under `key`, or `default` where the key is absent or null."""
        value = self.config.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise ModelError(f"the model config's {key!r} is {value!r}; it must be true or false")
        return value

    def require_multiple(self, key: str, value: int, divisor_key: str, divisor: int) -> None:
        """Refuse unless `value` is a multiple of `divisor`."""
        if value % divisor:
            raise ModelError(f"the model config's {key!r} ({value}) is no multiple of {divisor_key!r} ({divisor})")

    def unknown_pattern(self) -> str | None:
        """What of the config makes blocks that are not written down here, in words; None if nothing does.

        Mixtures of experts, cross attention, encoders that decode and layers without attention.
        """
        for key in (*MIXTURE_KEYS, "add_cross_attention", "is_decoder"):
            if self.config.get(key):
                return f"sets {key!r}"
        layer_types = self.config.get("layer_types") or ()
        if not isinstance(layer_types, list | tuple):
            raise ModelError(f"the model config's 'layer_types' is {layer_types!r}; it must be a list of names")
        for kind in cast("Sequence[object]", layer_types):
            if kind not in ATTENTION_LAYERS:
                return f"has {kind!r} in 'layer_types'"
        return None
