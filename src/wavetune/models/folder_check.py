"""Whether a model's folder can be used, from its config and the headers of its weights: nothing large is read or built.

Torch is not needed.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError, safe_open

from wavetune.errors import JsonError, ModelError
from wavetune.json_reader import read_json, require_file

MAX_CONFIG_BYTES = 16_000_000
MAX_COUNT = 4096  # of anything that a model builds one by one, such as blocks or experts
MAX_LABELS = 1_000_000  # for each of which transformers makes up a name
_STACK = re.compile(r"(.*?)\.(\d+)\.")
_COUNTED = re.compile(r"(num|n)_.*(layer|block|expert|head|group)s?|n_layers?|n_heads?|depth")


def check_config(folder: Path) -> None:
    """Raise ModelError if a folder's config asks for what wavetune never does, or for more than a model can have."""
    if (folder / "adapter_config.json").is_file() and (folder / "config.json").is_file():
        raise ModelError(
            f"{folder} holds a base model and an adapter (adapter_config.json): move the adapter to a folder of its"
            " own, or merge it into the model with PEFT"
        )
    if (folder / "config.json").is_file():
        refuse_config(read_object(folder / "config.json"), folder / "config.json")


def refuse_config(config: Mapping[str, Any], where: Path | str) -> None:
    """Raise ModelError if a parsed config is of a quantised model, or has counts beyond all reason."""
    for part in _parts(config):
        quantised = part.get("quantization_config") or part.get("compression_config")
        if quantised:
            method = quantised.get("quant_method") if isinstance(quantised, Mapping) else None
            method = method or ("bitsandbytes" if "load_in_4bit" in str(quantised) else "an unnamed method")
            raise ModelError(
                f"{where} says that the weights are quantised ({method}), which wavetune does not train on: use the"
                " unquantised model it was made from (bf16 halves its memory: run.precision=bf16)"
            )
        for key, value in part.items():
            most = MAX_LABELS if key == "num_labels" else MAX_COUNT if _COUNTED.fullmatch(key) else None
            if most is not None and isinstance(value, int) and not -1 <= value <= most:
                raise ModelError(f"{where} has {key} = {value}, outside 0 to {most}: correct it or fetch it again")


def _parts(config: Mapping[str, Any], depth: int = 0) -> Iterator[Mapping[str, Any]]:
    yield config
    for value in config.values():
        if isinstance(value, Mapping) and depth < 3:
            yield from _parts(value, depth + 1)


def check_weights(folder: Path, num_layers: int | None) -> None:
    """Raise ModelError if the weights are packed integers, or of fewer or more blocks than the config says."""
    blocks, stacks, packed = set[int](), dict[str, int](), ""
    for path in weight_files(folder):
        try:
            with safe_open(require_file(path), framework="numpy") as stored:
                for name in stored.keys():  # noqa: SIM118  a handle of safetensors is no mapping
                    blocks.update(int(part) for part in name.split(".") if part.isdecimal())
                    if stack := _STACK.match(name):
                        stacks[stack[1]] = max(stacks.get(stack[1], 0), int(stack[2]) + 1)
                    kind = str(stored.get_slice(name).get_dtype()) if name.endswith("weight") else "F32"
                    packed = packed or (name if kind.startswith(("I", "U", "F8", "F4")) else "")
        except (OSError, JsonError, SafetensorError) as error:
            raise ModelError(f"{path} is missing or damaged ({error}): delete its folder and fetch it again") from error
    if packed:
        raise ModelError(
            f"{folder} holds {packed} as packed integers, as quantised models do: use the unquantised model it was made"
            " from"
        )
    if num_layers is not None and blocks and num_layers > max(blocks) + 1:
        raise ModelError(
            f"{folder / 'config.json'} asks for {num_layers} blocks, but the weights are of {max(blocks) + 1}: correct"
            " the config or fetch the model again"
        )
    deep = [count for count in stacks.values() if count > 1]  # of several, such as a vision tower's, one is the text's
    if num_layers is not None and len(deep) == 1 and deep[0] > num_layers:
        raise ModelError(
            f"{folder / 'config.json'} asks for {num_layers} blocks, but the weights are of {deep[0]}, of which the"
            " last would be left out: correct the config, or save the shorter model with save_pretrained"
        )


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that hold a folder's weights. Raises ModelError if there are none."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = read_object(index).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise ModelError(f"{index} has no weight_map: fetch the model again")
        for shard in cast("dict[str, Any]", shards).values():
            if not isinstance(shard, str) or Path(shard).name != shard or "\0" in shard:
                raise ModelError(
                    f"{index} names {shard!r}, which is no file of the model's folder: fetch the model again"
                )
        return [folder / shard for shard in sorted(set(cast("dict[str, str]", shards).values()))]
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    refuse_gguf(folder)
    pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
    if pickles:
        raise ModelError(
            f"{folder} keeps its weights in a pickle ({pickles[0]}), which wavetune never loads as it can run code:"
            " save the model again with safe_serialization (model.safetensors)"
        )
    if others := sorted(folder.glob("*.safetensors")):
        raise ModelError(
            f"{folder} holds {others[0].name}, but neither model.safetensors nor the model.safetensors.index.json that"
            " says what is in which file: fetch the model again, whole and in the form of transformers"
        )
    raise ModelError(f"{folder} has no model.safetensors: pass a folder with weights in safetensors")


def refuse_gguf(folder: Path) -> None:
    """Raise ModelError if a folder holds GGUF weights (and nothing better was found)."""
    for path in sorted(folder.glob("*.gguf")):
        raise ModelError(
            f"{folder} keeps its weights as GGUF ({path.name}), which wavetune does not read: pass the model it was"
            " made from, in safetensors"
        )


def read_object(path: Path) -> dict[str, Any]:
    """An object of JSON from a file of bounded size. Raises ModelError."""
    try:
        value = read_json(path, finite=False, unique=False, most_bytes=MAX_CONFIG_BYTES)
    except JsonError as error:
        raise ModelError(f"{error}: fetch the model again") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} is not a JSON object: fetch the model again")
    return cast("dict[str, Any]", value)
