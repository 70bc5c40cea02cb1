"""Which linear maps of a model's blocks carry LoRA.

A target names a module as in PEFT: by the end of its dotted path. `all-linear` is all linear maps of the blocks.
"""

from collections import Counter
from collections.abc import Collection, Sequence

from transformers import PreTrainedModel

from wavetune.costs.operations import ALL_LINEAR, named
from wavetune.errors import ModelError


def lora_targets(model: PreTrainedModel, maps: Collection[str], targets: Sequence[str] | str | None) -> tuple[str, ...]:
    """Targets as a list of names, each of which is there.

    `maps` are the paths within a block of the linear maps that can carry LoRA. None chooses PEFT's default for the
    family, or where PEFT has none the maps that its defaults name elsewhere, or attention's. Raises ModelError.
    """
    leaves = sorted({path.rsplit(".", 1)[-1] for path in maps})
    if targets is None:
        return _default(model, maps, leaves)
    if targets == ALL_LINEAR or tuple(targets) == (ALL_LINEAR,):
        return tuple(sorted(maps))
    return (targets,) if isinstance(targets, str) else tuple(targets)


def peft_takes(model: PreTrainedModel, path: str) -> bool:
    """Whether PEFT puts LoRA on a map: not on those whose weights state-space models read without calling them."""
    leaf = path.rsplit(".", 1)[-1]
    return leaf != "out_proj" or not any("mamba" in type(module).__name__.lower() for module in model.modules())


def refuse_missing(model: PreTrainedModel, leaves: Collection[str], target: str) -> None:
    """Raise ModelError for a target that names no map that can carry LoRA, with those that can."""
    head = model.get_output_embeddings()
    found = [(name, module) for name, module in model.named_modules() if named(name, [target])]
    weights = [name for name, p in model.named_parameters() if named(name, [target]) and p.dim() == 3]
    if any(module is head for _, module in found):
        why = f"{target!r} is the output layer, which stays frozen"
    elif weights or any("experts" in name.split(".") for name, _ in found):
        why = f"{target!r} belongs to experts, which each see only some of the tokens and cannot carry LoRA"
    elif found:
        why = f"{target!r} is no linear map of the model's blocks that all tokens go through"
    else:
        why = f"no linear layer named {target!r} in the model's blocks"
    raise ModelError(f"{why}; choose from {sorted(leaves)}, or {ALL_LINEAR!r} for all of these")


def _default(model: PreTrainedModel, maps: Collection[str], leaves: Sequence[str]) -> tuple[str, ...]:
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as DEFAULTS

    for kind in (model.config.model_type, model.config.get_text_config().model_type):
        chosen = DEFAULTS.get(kind)
        if isinstance(chosen, list) and any(named(path, chosen) for path in maps):
            return tuple(t for t in chosen if any(named(path, [t]) for path in maps))
    usual = Counter(tuple(chosen) for chosen in DEFAULTS.values() if isinstance(chosen, list))
    for chosen, _ in usual.most_common():
        if set(chosen) <= set(leaves):
            return chosen
    attention = sorted({p.rsplit(".", 1)[-1] for p in maps if any("att" in part for part in p.lower().split("."))})
    if attention or leaves:
        return tuple(attention or leaves)
    raise ModelError(f"{type(model).__name__} has no linear map in its blocks that LoRA could act in")
