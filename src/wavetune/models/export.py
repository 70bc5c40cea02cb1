"""Adapters as PEFT saves them: `peft.PeftModel.from_pretrained(base, folder)` loads what is written here."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from wavetune.costs.adapter import AdapterSite
from wavetune.costs.operations import named
from wavetune.models.backbone import Backbone
from wavetune.models.key_prefix import KEYS, VALUES
from wavetune.models.lora import Matrices

_PLAIN_LORA = {  # PEFT's defaults, which other readers of its files ask for too
    "bias": "none",
    "init_lora_weights": True,
    "lora_dropout": 0.0,
    "modules_to_save": None,
    "use_dora": False,
    "use_rslora": False,
}


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
    rank = factors[sites[0].name]["A"].shape[-1]
    config = {
        "peft_type": "LORA",
        "task_type": "FEATURE_EXTRACTION" if backbone.head is None else "CAUSAL_LM",
        "r": rank,
        "lora_alpha": scale * rank,
        "target_modules": _targets(backbone, sites),
        "fan_in_fan_out": backbone.transposed,
        **_PLAIN_LORA,
    }
    tensors = {}
    for site in sites:
        prefix = f"base_model.model.{site.name}"
        for name, factor in factors[site.name].items():
            tensors[f"{prefix}.lora_{name}.weight"] = factor.detach().cpu().float().t().contiguous()
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    _write_config(part, config, base)
    save_file(tensors, part / "adapter_model.safetensors", metadata={"format": "pt"})
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(part, folder)


def save_peft_prompt(folder: Path, vectors: Tensor, base: str, backbone: Backbone) -> None:
    """Write a soft prompt `[tokens, width]` in fp32, as PEFT's prompt tuning; beside what the folder holds."""
    config = backbone.model.config.get_text_config()
    about = {
        "peft_type": "PROMPT_TUNING",
        "task_type": "CAUSAL_LM",
        "num_virtual_tokens": vectors.shape[0],
        "token_dim": vectors.shape[1],
        "num_transformer_submodules": 1,
        "num_layers": backbone.num_layers,
        "num_attention_heads": config.num_attention_heads,
    }
    _save_vectors(folder, about, base, vectors)


def save_peft_prefix(folder: Path, blocks: Sequence[Matrices], base: str, backbone: Backbone) -> None:
    """Write the keys and values `[tokens, width]` of all blocks in fp32, as PEFT's prefix tuning; beside what is there.

    As there, width is that of all key heads together.
    """
    config, first = backbone.model.config.get_text_config(), blocks[0][KEYS]
    about = {
        "peft_type": "PREFIX_TUNING",
        "task_type": "CAUSAL_LM",
        "num_virtual_tokens": first.shape[0],
        "token_dim": first.shape[1],
        "num_transformer_submodules": 1,
        "num_layers": len(blocks),
        "num_attention_heads": getattr(config, "num_key_value_heads", None) or config.num_attention_heads,
        "encoder_hidden_size": first.shape[1],
        "prefix_projection": False,
    }
    stacked = torch.cat([own[name].detach().cpu().float() for own in blocks for name in (KEYS, VALUES)], 1)
    _save_vectors(folder, about, base, stacked)


def _save_vectors(folder: Path, config: Mapping[str, object], base: str, vectors: Tensor) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    _write_config(folder, config, base)
    tensors = {"prompt_embeddings": vectors.detach().cpu().float().contiguous()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def _targets(backbone: Backbone, sites: Sequence[AdapterSite]) -> list[str]:
    """Names of the maps, or their whole paths where the names are those of other modules too."""
    wanted = {site.name for site in sites}
    names = sorted({name.rsplit(".", 1)[-1] for name in wanted})
    matched = {name for name, _ in backbone.model.named_modules() if named(name, names)}
    return names if matched == wanted else sorted(wanted)


def _write_config(folder: Path, config: Mapping[str, object], base: str) -> None:
    """As PEFT's configs are written, without importing PEFT, which takes longer than a small run."""
    values = {**config, "base_model_name_or_path": base, "inference_mode": True}
    text = json.dumps(values, indent=2, sort_keys=True) + "\n"
    (folder / "adapter_config.json").write_text(text, encoding="utf-8")
