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
from wavetune.data_plane.server import Line
from wavetune.models.adapter_folder import PEFT_FILE, WEIGHTS
from wavetune.recipe import Recipe

TOLERANCE = 1e-6


@contextmanager
def tapped(moved: list[bytes]) -> Iterator[None]:
    """Note what devices send, over both streams, and what the data plane answers."""
    receive, next_answer, parsed = Line.receive, Line.next_answer, control._parsed

    def tapped_receive(line: Line, content: bytes) -> None:
        moved.append(content)
        receive(line, content)

    def tapped_answer(line: Line) -> bytes:
        moved.append(next_answer(line))
        return moved[-1]

    def tapped_report(content: bytes) -> Any:
        moved.append(content)
        return parsed(content)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Line, "receive", tapped_receive)
        patch.setattr(Line, "next_answer", tapped_answer)
        patch.setattr(control, "_parsed", tapped_report)
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
    """All pairs of neighbouring floats in some bytes, at whatever offset, sorted."""
    places = [np.frombuffer(moved[start : start + len(moved) // 4 * 4 - 4], np.float32) for start in range(4)]
    return np.unique(np.concatenate([side_by_side(values) for values in places]))


def side_by_side(values: Any) -> Any:
    """Pairs of successive floats, each as one number."""
    words = values.view(np.uint32).astype(np.uint64)
    return words[:-1] | words[1:] << np.uint64(32)


def occur(numbers: Any, sorted_numbers: Any) -> bool:
    """Whether one of the numbers is among the sorted ones."""
    places = np.searchsorted(sorted_numbers, numbers).clip(max=len(sorted_numbers) - 1)
    return bool((sorted_numbers[places] == numbers).any())


def neighbours(value: Any) -> Any:
    """Pairs of neighbouring values of a tensor, along rows and columns, each as one number."""
    pairs = [np.stack([value[..., :-1], value[..., 1:]], -1), np.stack([value[..., :-1, :], value[..., 1:, :]], -1)]
    flat = np.concatenate([pair.reshape(-1, 2) for pair in pairs])
    flat = flat[(np.abs(flat) > 1e-8).all(1)]
    return flat.view(np.uint32).astype(np.uint64) @ np.array([1, 1 << 32], np.uint64)
