"""One client's adapters as a folder: LoRA as PEFT saves it, other kinds and a head in two files beside it.

A soft prompt and prefixes are saved as PEFT saves them, too: in the folder itself or, where there is LoRA, in its
subfolder `prompt` or `prefix`, as PEFT loads one kind alone from a folder.

`wavetune_adapter.safetensors` holds weights as `torch.nn.Linear` keeps them, `[out, in]`: `MODULE.bottleneck.down`,
`MODULE.bottleneck.up`, `classifier.weight`, `classifier.bias`; of other kinds matrices as they are trained,
`MODULE:KIND.MATRIX`. `wavetune_adapter.json` says what they are.
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from wavetune.costs.adapter import AdapterSite
from wavetune.errors import ModelError
from wavetune.json_reader import read_json, require_file
from wavetune.models.backbone import Backbone, default_pooling
from wavetune.models.classifier import Pooling
from wavetune.models.export import save_peft_adapter, save_peft_prefix, save_peft_prompt
from wavetune.models.key_prefix import KEYS, VALUES
from wavetune.models.lora import Matrices
from wavetune.models.soft_prompt import PROMPT, VECTORS
from wavetune.models.stopping import Ends, own_ends

PEFT_FILE = "adapter_model.safetensors"
GENERATION = "generation_config.json"
ABOUT, WEIGHTS = "wavetune_adapter.json", "wavetune_adapter.safetensors"
FORMAT = 1
PREFIX = "prefix"
_OF_PEFT = ("lora", "prompt", PREFIX)  # kinds


@dataclass(frozen=True)
class Head:
    """A head of so many outputs on pooled samples; `labels` name its classes, if it has any."""

    outputs: int
    pooling: Pooling
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class BesidePeft:
    """What stands in a folder beside PEFT's files: the modules that a bottleneck follows, the head, all weights.

    `others` are the sites of further kinds, `MODULE:KIND`.
    """

    modules: tuple[str, ...]
    head: Head | None
    weights: Mapping[str, Tensor]
    others: tuple[str, ...] = ()


def is_adapter_folder(folder: Path) -> bool:
    """Whether a folder holds adapters of any kind."""
    return (folder / PEFT_FILE).exists() or (folder / ABOUT).exists()


def save_adapter_folder(
    folder: Path,
    factors: Mapping[str, Matrices],
    backbone: Backbone,
    scale: float,
    base: str,
    labels: Sequence[str] = (),
    pooling: Pooling | None = None,
    ends: Ends = (),
) -> None:
    """Write the adapters of one client, or those that all share, in fp32 and in place of what the folder held.

    `factors[name]` holds the matrices of those sites of the backbone that are written; LoRA's update is `scale * A B`.
    `base` is the model's name or folder, `labels` name the head's classes. Of the `ends` of
    an answer, single tokens and the model's own stand in a generation config, as stock generation takes them.
    """
    sites = [site for site in backbone.sites if site.name in factors]
    lora, prompts, prefixes = ([site for site in sites if site.kind == kind] for kind in _OF_PEFT)
    whole = folder.with_name(folder.name + ".whole")
    shutil.rmtree(whole, ignore_errors=True)
    whole.mkdir(parents=True)
    if lora:
        save_peft_adapter(whole, factors, lora, scale, base, backbone)
    for site in prompts:
        save_peft_prompt(whole / PROMPT if lora else whole, factors[site.name][VECTORS], base, backbone)
    if prefixes:
        save_peft_prefix(whole / PREFIX if lora else whole, [factors[site.name] for site in prefixes], base, backbone)
    if len(lora) + len(prompts) + len(prefixes) < len(sites):
        _save_beside(whole, factors, sites, base, labels, pooling or default_pooling(backbone.model))
    if ends:
        tokens = sorted(end[0] for end in {*ends, *own_ends(backbone.model)} if len(end) == 1)
        (whole / GENERATION).write_text(json.dumps({"eos_token_id": tokens}) + "\n", encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(whole, folder)


def _save_beside(
    folder: Path,
    factors: Mapping[str, Matrices],
    sites: Sequence[AdapterSite],
    base: str,
    labels: Sequence[str],
    pooling: Pooling,
) -> None:
    modules, others, head, weights = list[str](), list[str](), None, dict[str, Tensor]()
    for site in sites:
        own = {name: matrix.detach().cpu().float() for name, matrix in factors[site.name].items()}
        if site.kind == "bottleneck":
            module = site.name.rpartition(":")[0]
            modules.append(module)
            weights |= {f"{module}.bottleneck.down": own["A"].t(), f"{module}.bottleneck.up": own["B"].t()}
        elif site.kind == "head":
            head = Head(len(own["B"][0]), pooling, tuple(labels))
            weights |= {"classifier.weight": own["A"].t(), "classifier.bias": own["B"][0]}
        elif site.kind not in _OF_PEFT:
            others.append(site.name)
            weights |= {f"{site.name}.{name}": matrix for name, matrix in own.items()}
    weights = {name: weight.contiguous() for name, weight in weights.items()}
    about = {"format": FORMAT, "base": base, "bottlenecks": modules, "others": others, "head": head and asdict(head)}
    (folder / ABOUT).write_text(json.dumps(about, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def read_beside_peft(folder: Path) -> BesidePeft:
    """What `save_adapter_folder` wrote beside PEFT's files, nothing if there is nothing. Raises ModelError."""
    if not (folder / ABOUT).exists():
        return BesidePeft((), None, {})
    try:
        about: dict[str, Any] = read_json(folder / ABOUT)
        if about["format"] != FORMAT:
            raise ModelError(f"{folder / ABOUT} has format {about['format']}; this wavetune reads format {FORMAT}")
        found = about["head"]
        head = found and Head(int(found["outputs"]), found["pooling"], tuple(found["labels"]))
        weights = load_file(require_file(folder / WEIGHTS))
    except ModelError:
        raise
    except Exception as error:  # JSON, safetensors and the disk have types of their own
        raise ModelError(f"cannot read the adapters in {folder} ({error}): train them again") from error
    return BesidePeft(tuple(about["bottlenecks"]), head, weights, tuple(about.get("others", ())))


def read_factors(folder: Path, backbone: Backbone) -> dict[str, Matrices]:
    """The matrices by site that `save_adapter_folder` wrote of adapters on a backbone, in its precision.

    Raises: ModelError where a file is damaged.
    """
    weights, found = dict(read_beside_peft(folder).weights), dict[str, Matrices]()
    try:
        for file in (folder / PEFT_FILE, folder / PROMPT / PEFT_FILE, folder / PREFIX / PEFT_FILE):
            weights |= load_file(file) if file.exists() else {}
        weights |= _of_blocks(weights, [site for site in backbone.sites if site.kind == PREFIX])
    except (OSError, SafetensorError) as error:
        raise ModelError(f"cannot read the adapters in {folder} ({error}): train them again") from error
    for site in backbone.sites:
        names = _names(site)
        if all(name in weights for name in names.values()):
            own = {matrix: weights[name].to(backbone.device, backbone.dtype) for matrix, name in names.items()}
            turned = site.kind in ("lora", "bottleneck", "head")  # as torch.nn.Linear keeps them
            found[site.name] = {m: t[None] if t.dim() == 1 else t.t() if turned else t for m, t in own.items()}
    return found


def _of_blocks(weights: Mapping[str, Tensor], sites: Sequence[AdapterSite]) -> dict[str, Tensor]:
    """Keys and values by block, of prefixes that PEFT keeps as one matrix; none where there are none."""
    whole = weights.get("prompt_embeddings")
    names = [f"{site.name}.{name}" for site in sites for name in (KEYS, VALUES)]
    return {} if whole is None or not names else dict(zip(names, whole.chunk(len(names), 1), strict=True))


def _names(site: AdapterSite) -> dict[str, str]:
    """What a site's matrices are called in the files of a folder."""
    module = site.name.rpartition(":")[0]
    if site.kind == "bottleneck":
        return {"A": f"{module}.bottleneck.down", "B": f"{module}.bottleneck.up"}
    if site.kind == "head":
        return {"A": f"{site.name}.weight", "B": f"{site.name}.bias"}
    if site.kind == "prompt":
        return {VECTORS: "prompt_embeddings"}
    pattern = "base_model.model.{}.lora_{}.weight" if site.kind == "lora" else "{}.{}"
    return {matrix.name: pattern.format(site.name, matrix.name) for matrix in site.matrices}
