"""What leaves a device: all bytes that move between devices and servers, and values that are looked for in them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from helpers.deployment import run_deployed
from helpers.runs import Silent, train
from wavetune.data_plane import control
from wavetune.data_plane.server import DeviceStream
from wavetune.models.adapter_folder import PEFT_FILE, WEIGHTS
from wavetune.recipe import Recipe

TOLERANCE = 1e-7  # files hold fp32 of what was computed in fp64


@contextmanager
def tapped(moved: list[bytes]) -> Iterator[None]:
    """Note what devices send, over both streams, and what they are answered."""
    receive, next_answer, parsed = DeviceStream.receive, DeviceStream.next_answer, control.parsed

    def tapped_receive(stream: DeviceStream, content: bytes) -> None:
        moved.append(content)
        receive(stream, content)

    def tapped_answer(stream: DeviceStream) -> bytes:
        moved.append(next_answer(stream))
        return moved[-1]

    def tapped_message(kind: Any, content: bytes, what: str) -> Any:
        moved.append(content)
        return parsed(kind, content, what)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DeviceStream, "receive", tapped_receive)
        patch.setattr(DeviceStream, "next_answer", tapped_answer)
        patch.setattr(control, "parsed", tapped_message)
        yield


def interrupted_and_whole(recipe: Recipe, folder: Path, stops: Silent) -> tuple[Path, Path, bytes]:
    """A deployed run that an observer stops and that goes on with new servers and devices, and the run in one process.

    Returns both runs' folders, and all bytes that moved between devices and servers.
    """
    deployed, moved = folder / "deployed", list[bytes]()
    with tapped(moved):
        with pytest.raises(KeyboardInterrupt):
            run_deployed(recipe, deployed, folder / "certificates", stops)
        run_deployed(recipe, deployed, folder / "certificates", Silent(), resume=True)
    train(recipe, folder / "in-process")
    return deployed, folder / "in-process", b"".join(moved)


def files(folder: Path) -> dict[str, Any]:
    """All tensors of an adapter folder."""
    found = {p.name: load_file(p) for p in (folder / PEFT_FILE, folder / WEIGHTS) if p.exists()}
    assert found
    return {f"{name}:{tensor}": value for name, tensors in found.items() for tensor, value in tensors.items()}


def assert_same(found: Path, wanted: Path, tolerance: float = TOLERANCE) -> None:
    """Two adapter folders hold the same."""
    mine, theirs = files(found), files(wanted)
    assert mine.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_allclose(mine[name], value, rtol=0, atol=tolerance, err_msg=name)


def anywhere(moved: bytes) -> Any:
    """All runs of eight bytes, at whatever offset, each as one number, sorted."""
    words = (np.frombuffer(moved[start : start + len(moved) // 4 * 4 - 4], np.uint32) for start in range(4))
    wide = (word.astype(np.uint64) for word in words)
    return np.unique(np.concatenate([word[:-1] | word[1:] << np.uint64(32) for word in wide]))


def occur(numbers: Any, sorted_numbers: Any) -> bool:
    """Whether one of the numbers is among the sorted ones."""
    places = np.searchsorted(sorted_numbers, numbers).clip(max=len(sorted_numbers) - 1)
    return bool((sorted_numbers[places] == numbers).any())


def eight_bytes(value: Any) -> Any:
    """The values of a tensor as eight bytes give them away, each as one number.

    That is each value in fp64 where the tensor has that, and each two neighbours, along rows and columns, in fp32.
    """
    value = np.where(np.abs(value) > 1e-8, value, np.nan)
    narrow = value.astype(np.float32)
    pairs = [
        np.stack([narrow[..., :-1], narrow[..., 1:]], -1), np.stack([narrow[..., :-1, :], narrow[..., 1:, :]], -1)
    ]  # fmt: skip
    flat = np.concatenate([pair.reshape(-1, 2) for pair in pairs])
    flat = flat[~np.isnan(flat).any(1)]
    found = [flat.view(np.uint32).astype(np.uint64) @ np.array([1, 1 << 32], np.uint64)]
    if value.dtype == np.float64:
        found.append(value[~np.isnan(value)].view(np.uint64))
    return np.concatenate(found)
