"""A reward model: a frozen backbone with LoRA and a scalar head on the pooled sample; its loss, and its files.

The Bradley-Terry model says that answer x is preferred to y with probability sigma(r(x) - r(y)), so the reward r is
learned from pairs as -log sigma(r(chosen) - r(rejected)). Source: Bradley and Terry, Biometrika 39, 1952; Ouyang et
al., arXiv 2203.02155, equation 1.
Legend: N tokens, S samples, P pairs, D width.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from wavetune.errors import JsonError, ModelError
from wavetune.json_reader import read_json, require_file
from wavetune.models.backbone import Backbone
from wavetune.models.classifier import HEAD, head_site, stacked_head
from wavetune.models.export import save_peft_adapter
from wavetune.models.lora import AdapterBank, new_bank
from wavetune.models.ragged import ragged_layout

ABOUT, HEAD_FILE, ADAPTER = "reward.json", "head.safetensors", "adapter"
LOADED = (f"{ADAPTER}/adapter_model.safetensors", HEAD_FILE, ABOUT)
"""The files that a saved reward model is loaded from; it is there once the last one is."""


def reward_bank(backbone: Backbone, rank: int, alpha: float, seed: int) -> AdapterBank:
    """Fresh LoRA and head of one reward model. The head's offset is left out of training: pairs cannot tell it."""
    local_LK = np.ones((backbone.num_layers, 1), np.bool_)
    bank = new_bank(backbone.sites, local_LK, [rank], rank, alpha, seed, backbone.device, backbone.dtype)
    bank.local[HEAD]["B"].requires_grad_(False)
    return bank


def rewards_of(backbone: Backbone, bank: AdapterBank, input_ids_N: Tensor, lengths: Sequence[int]) -> Tensor:
    """Reward of each sample of a ragged batch, `[N]` to `[S]`."""
    device = backbone.device
    layout = ragged_layout(lengths, device)
    hidden = backbone.forward(input_ids_N.to(device), layout, bank, [0], [len(input_ids_N)])
    segments = bank.segments(head_site(bank).layer, [0], [len(lengths)])
    return stacked_head(backbone.pooled(hidden, lengths), bank, segments)[:, 0]


def preference_loss(rewards_S: Tensor) -> tuple[Tensor, Tensor]:
    """Mean Bradley-Terry loss in nats, and the margin of each pair (detached), `[P]`.

    Samples stand in pairs, the chosen one first: S is 2P.
    """
    margin_P = rewards_S[0::2] - rewards_S[1::2]
    return F.softplus(-margin_P).mean(), margin_P.detach()


def save_reward(folder: Path, backbone: Backbone, bank: AdapterBank, base: str, about: Mapping[str, Any]) -> None:
    """Write a reward model: the LoRA part in PEFT format, the head, and what is known about it, last of all."""
    own = {site: {name: stack[0] for name, stack in stacks.items()} for site, stacks in bank.local.items()}
    sites = [site for site in bank.sites if site.kind == "lora"]
    folder.mkdir(parents=True, exist_ok=True)
    save_peft_adapter(folder / ADAPTER, own, sites, bank.scale, base, backbone)
    head = {"weight": own[HEAD]["A"][:, 0], "bias": own[HEAD]["B"][0]}
    save_file({name: t.detach().cpu().contiguous() for name, t in head.items()}, folder / HEAD_FILE)
    text = json.dumps(dict(about), indent=1, allow_nan=False) + "\n"
    (folder / ABOUT).write_text(text, encoding="utf-8")


def read_about(folder: Path) -> dict[str, Any]:
    """What a reward model's folder says about it. Raises ModelError if it holds none."""
    try:
        return read_json(folder / ABOUT)
    except JsonError as error:
        raise ModelError(
            f"{folder} holds no reward model ({error}): train one with `wavetune train-reward --out {folder}`"
        ) from error


@torch.no_grad()
def load_reward(folder: Path, backbone: Backbone, about: Mapping[str, Any]) -> AdapterBank:
    """The saved adapters and head, for a backbone loaded with the targets that `about` names.

    Raises: ModelError if files are missing, damaged or of another model.
    """
    try:
        lora = load_file(require_file(folder / ADAPTER / "adapter_model.safetensors"))
        head = load_file(require_file(folder / HEAD_FILE))
        held = {len(matrix) for name, matrix in lora.items() if name.endswith(".lora_A.weight")}
        if held != {about["rank"]}:
            raise ModelError(f"its rank is {about['rank']}, and those of its adapters are {sorted(held)}")
        bank = reward_bank(backbone, about["rank"], about["alpha"], 0)
        places = {HEAD: {"A": head["weight"][:, None], "B": head["bias"][None]}}
        for site, stacks in bank.local.items():
            for name, stack in stacks.items():
                found = places[site][name] if site == HEAD else lora[f"base_model.model.{site}.lora_{name}.weight"].t()
                if found.shape != stack[0].shape:
                    raise ModelError(f"{name} of {site} has shape {list(found.shape)} and not {list(stack[0].shape)}")
                stack[0] = found
    except Exception as error:  # safetensors, the disk and torch have types of their own
        raise ModelError(f"cannot load the reward model in {folder} ({error}): train it again") from error
    return bank
