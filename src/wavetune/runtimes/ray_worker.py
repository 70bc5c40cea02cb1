"""A worker as a Ray actor. Ray imports this module first, so that nothing in it may import PyTorch or transformers."""

from collections.abc import Sequence
from typing import Any

from wavetune.models import light_imports


class RayWorker:
    """`Worker` in a process of its own, which opens transformers with light imports."""

    def __init__(self, job: Sequence[Any], clients: range, device: str) -> None:
        """`job` holds the reference of the job alone: Ray itself would read what a bare one refers to, before this."""
        light_imports.install()
        import ray

        from wavetune.runtimes.worker import Worker

        (reference,) = job
        self._worker = Worker(ray.get(reference), clients, device)

    def answer(self, method: str, *arguments: Any) -> Any:
        """What a method of the worker returns."""
        return getattr(self._worker, method)(*arguments)
