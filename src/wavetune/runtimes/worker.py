"""A worker of a run: it holds the base model and a slice of the cohort, and trains, evaluates and aligns as it is told.

Tensors cross as NumPy arrays. A Ray actor has one in a process of its own; nothing here imports ray.
"""

import os
import resource
import socket
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wavetune.data.partition import Rows
from wavetune.data.templates import TokenSet
from wavetune.federation.alignment import Rewards
from wavetune.federation.cohort import Cohort, Evaluation, RowBatches
from wavetune.federation.door import Door
from wavetune.federation.messages import EVERYTHING, Agenda
from wavetune.federation.placement import Placement
from wavetune.federation.slices import (
    SliceStep,
    alone,
    client_state,
    load_client_state,
    load_server_state,
    slice_of,
    step_slice,
)
from wavetune.models.backbone import load_tokenizer
from wavetune.models.resolve import resolve_model
from wavetune.recipe import Recipe
from wavetune.runtimes.alignment.here import Step, work_of
from wavetune.runtimes.alignment.task import Share, rewards_of
from wavetune.runtimes.precision import device_of
from wavetune.runtimes.provenance import versions
from wavetune.runtimes.rewards import write_files
from wavetune.runtimes.session import backbone_of, cohort_of, one_bank

Floats = NDArray[np.float32] | NDArray[np.float64]
Arrays = dict[str, Floats]
Factors = Mapping[str, Mapping[str, Floats]]


class StateLostError(Exception):
    """This process was started again since the state it is asked to continue from."""


@dataclass(frozen=True)
class Job:
    """What all workers of a run share: its recipe as planned, the model, who is placed where, and the rows."""

    recipe: Recipe
    folder: Path
    targets: tuple[str, ...]
    bf16: bool
    placement: Placement
    rank_K: tuple[int, ...]
    num_classes: int | None
    token_sets: Mapping[str, TokenSet]


@dataclass(frozen=True)
class Introduction:
    """Who a worker is: its machine, process, device, threads and the versions of what computes there.

    `usable` is whether PyTorch sees the device; if not, no model was loaded.
    """

    host: str
    process: int
    device: str
    usable: bool
    threads: int
    versions: dict[str, str]


@dataclass
class Worker:
    """The clients `clients` of a job, on a device of the machine where this process runs."""

    job: Job
    clients: range
    device: str
    _done: tuple[int, int] | None = field(default=None, init=False)  # rounds loaded, steps since then
    _rewards: Rewards | None = field(default=None, init=False)

    def introduce(self) -> Introduction:
        """Load the base model. Raises ModelError where it is not on this machine."""
        gpu = self.device == "cuda"
        device = f"GPU {os.environ.get('CUDA_VISIBLE_DEVICES', '')}" if gpu else self.device
        if usable := not gpu or torch.cuda.is_available():
            _ = self._cohort
        return Introduction(socket.gethostname(), os.getpid(), device, usable, torch.get_num_threads(), versions())

    def load(self, number: int, state: Arrays, anchored: Collection[str], agenda: Agenda = EVERYTHING) -> None:
        """Begin a round, the `number`th that was begun, with these adapters and moments of the slice's clients."""
        self._cohort.optimiser.reset()
        load_client_state(self._cohort, self.clients, tensors(state))
        self._cohort.begin_round(anchored, agenda)
        self._done = (number, 0)

    def step(
        self,
        done: tuple[int, int],
        server: Arrays,
        rows: Mapping[int, Rows],
        factor: float,
        active_K: list[bool],
    ) -> tuple[SliceStep, list[Arrays]]:
        """A local step of these clients, with the server's gradients apart. Raises NumericsError, StateLostError."""
        self._require(done)
        load_server_state(self._cohort, tensors(server))
        step = step_slice(self._cohort, RowBatches(self.job.token_sets["train"], rows), factor, active_K)
        self._done = (done[0], done[1] + 1)
        return replace(step, server_gradients=[]), [arrays(gradients) for gradients in step.server_gradients]

    def state(self, done: tuple[int, int]) -> Arrays:
        """Adapters and moments of the slice's clients after the steps of a round. Raises StateLostError."""
        self._require(done)
        return arrays(client_state(self._cohort, self.clients))

    def evaluate(self, rows: str, factors: Factors | None, passes: slice) -> Evaluation:
        """Losses of some passes over a set of rows with these adapters, or of the plain base model."""
        bank = None
        if factors is not None:
            device = self._cohort.backbone.device
            told = {site: {n: t.to(device) for n, t in tensors(own).items()} for site, own in factors.items()}
            bank = one_bank(self._cohort, told)
        return self._cohort.evaluate(self.job.token_sets[rows], bank, passes=passes)

    def align(
        self,
        rewards: Mapping[str, Mapping[str, bytes]],
        share: Share,
        adapters: Arrays,
        saved: Arrays,
        steps: int,
        evaluate: bool,
    ) -> tuple[Step, Arrays]:
        """Have the slice's clients take so many steps of alignment in all, from a saved state; how the last one went,
        and the state to save. `rewards` are the files of those that were trained.
        """
        cohort = self._cohort
        cohort.optimiser.reset()
        load_client_state(cohort, self.clients, tensors(adapters))
        if self._rewards is None:
            self._rewards = self._opened(rewards)
        own = alone(cohort, self.clients)
        work = work_of(share, self.job.recipe, own, load_tokenizer(self._folder), self._rewards, tensors(saved))
        step = work.advance(steps, evaluate)
        return step, arrays(work.state())

    def peak_bytes(self) -> int:
        """The largest resident memory of this process so far."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def _opened(self, files: Mapping[str, Mapping[str, bytes]]) -> Rewards:
        with TemporaryDirectory() as place:
            for name, own in files.items():
                write_files(Path(place) / name, own)
            return rewards_of(self.job.recipe, Path(place), self._cohort.backbone.device, lambda _: None)

    @property
    def _folder(self) -> Path:
        """The base model on this machine."""
        job = self.job
        return job.folder if job.folder.exists() else resolve_model(job.recipe.world.model).folder

    @cached_property
    def _cohort(self) -> Cohort:
        job = self.job
        device = device_of(self.device)
        backbone = backbone_of(job.recipe, job.targets, self._folder, job.bf16, device, job.num_classes)
        return slice_of(cohort_of(job.recipe, backbone, job.placement, job.rank_K, Door()), self.clients)

    def _require(self, done: tuple[int, int]) -> None:
        if self._done != done:
            raise StateLostError(f"the state after step {done[1]} of round {done[0]} is not here")


def arrays(named: Mapping[str, Tensor]) -> Arrays:
    """Tensors as they are sent."""
    return {name: tensor.detach().cpu().numpy() for name, tensor in named.items()}


def tensors(named: Mapping[str, Floats]) -> dict[str, Tensor]:
    """Copies of arrays that arrived, which Ray keeps from being written to."""
    return {name: torch.tensor(array) for name, array in named.items()}
