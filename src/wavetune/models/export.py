"""Adapters as PEFT saves them: `peft.PeftModel.from_pretrained(base, folder)` loads what is written here."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor, nn

from wavetune.costs.adapter import AdapterSite
from wavetune.models.backbone import Backbone
from wavetune.models.lora import FrozenLinear, Matrices
from wavetune.models.structure import LINEAR
from wavetune.models.targets import named


def save_peft_adapter(
    folder: Path,
    factors: Mapping[str, Matrices],
    sites: Sequence[AdapterSite],
    scale: float,
    base: str,
    backbone: Backbone,
) -> None:
    """Write one adapter in fp32. `factors[name]` holds A `[in, R]` and B `[R, out]` with update `scale * A B`.

    `base` is the name or folder of the model that `backbone` runs.
    """
    from peft import LoraConfig

    rank = factors[sites[0].name]["A"].shape[-1]
    config = LoraConfig(
        r=rank,
        lora_alpha=scale * rank,  # type: ignore[arg-type]  PEFT divides it, whatever number it is
        target_modules=_targets(backbone, sites),
        fan_in_fan_out=backbone.transposed,
        task_type="FEATURE_EXTRACTION" if backbone.head is None else "CAUSAL_LM",
        base_model_name_or_path=base,
        inference_mode=True,
    )
    tensors = {}
    for site in sites:
        prefix = f"base_model.model.{site.name}"
        for name, factor in factors[site.name].items():
            tensors[f"{prefix}.lora_{name}.weight"] = factor.detach().cpu().float().t().contiguous()
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    config.save_pretrained(str(part))
    _sort_targets(part / "adapter_config.json")
    save_file(tensors, part / "adapter_model.safetensors", metadata={"format": "pt"})
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(part, folder)


def save_peft_prompt(folder: Path, vectors: Tensor, base: str, backbone: Backbone) -> None:
    """Write a soft prompt `[tokens, width]` in fp32, as PEFT's prompt tuning; beside what the folder holds."""
    from peft import PromptTuningConfig

    config = backbone.model.config.get_text_config()
    about = PromptTuningConfig(
        num_virtual_tokens=vectors.shape[0],
        token_dim=vectors.shape[1],
        num_transformer_submodules=1,
        num_layers=backbone.num_layers,
        num_attention_heads=config.num_attention_heads,
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
        inference_mode=True,
    )
    folder.mkdir(parents=True, exist_ok=True)
    about.save_pretrained(str(folder))
    tensors = {"prompt_embeddings": vectors.detach().cpu().float().contiguous()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def _targets(backbone: Backbone, sites: Sequence[AdapterSite]) -> list[str]:
    """Names of the maps, or their whole paths where the names are those of other modules too."""
    wanted = {site.name for site in sites}
    names = sorted({name.rsplit(".", 1)[-1] for name in wanted})
    matched = {name for name, module in backbone.model.named_modules() if named(name, names) and _is_map(module)}
    return names if matched == wanted else sorted(wanted)


def _is_map(module: nn.Module) -> bool:
    return isinstance(module, (*LINEAR, FrozenLinear))


def _sort_targets(path: Path) -> None:
    """PEFT writes the targets in an order that differs from process to process; files of equal runs shall be equal."""
    values = json.loads(path.read_text(encoding="utf-8"))
    values["target_modules"] = sorted(values["target_modules"])
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
