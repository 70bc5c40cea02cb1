"""Kernels in several threads."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch


def side_by_side(kernel: Any, calls: Sequence[tuple[Any, ...]]) -> None:
    """Call a kernel, which lets go of Python's lock, with each of these arguments: but the first in other threads."""
    waiting = [_pool(torch.get_num_threads() - 1).submit(kernel, *call) for call in calls[1:]]
    kernel(*calls[0])
    for one in waiting:
        one.result()


@cache
def _pool(workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, "kernels")
