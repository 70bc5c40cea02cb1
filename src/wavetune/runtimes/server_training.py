"""A server as a trainer of its own: the mixture of a round, trained on rows that no client has."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from wavetune.costs.table import CostTable, Workload
from wavetune.costs.workload import split_work
from wavetune.data.batching import batch_indices
from wavetune.data.partition import Rows
from wavetune.data.settings import PreparedData
from wavetune.federation.cohort import Cohort
from wavetune.federation.optimise import StackedOptimiser
from wavetune.federation.server_steps import ServerSteps
from wavetune.models.lora import named_matrices
from wavetune.recipe import Recipe
from wavetune.records.fields import UNKNOWN
from wavetune.runtimes.world import workload_of


@dataclass
class ServerTraining:
    """What `method.server_steps` does with a mixture; the server's rows are drawn as a further client's would be."""

    recipe: Recipe
    cohort: Cohort  # of one, the server, with the adapters that are shared
    data: PreparedData
    part: ServerSteps = field(init=False)
    loss: float = field(default=UNKNOWN, init=False)  # mean over the latest round's steps

    def __post_init__(self) -> None:
        assert self.recipe.method.server_steps is not None
        self.part, optimiser = self.recipe.method.server_steps, self.recipe.method.optimiser
        self.cohort.optimiser = StackedOptimiser(self.cohort.bank, optimiser.constant(self.part.learning_rate))

    def __call__(self, index: int, mixture: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The adapters after a round's steps, from its mixture or from what the server had before."""
        start = mixture if self.part.from_clients else before  # without what is frozen, which all hold alike
        stacks = {name: stack for name, stack in named_matrices(self.cohort.bank.local) if name in start}
        for name, stack in stacks.items():
            stack.detach()[0].copy_(start[name])
        losses = list[float]()
        with torch.enable_grad():
            self.cohort.begin_round(())
            for rows in self.rows(index):
                losses.append(float(self.cohort.step(self.data.train, [rows], 1.0).loss_K[0]))
        self.loss = float(np.mean(losses))
        return {name: stack.detach()[0].clone() for name, stack in stacks.items()}

    def rows(self, index: int) -> Sequence[Rows]:
        """The rows of each step of a round."""
        own, count, number = self.data.server_rows, self.part.steps, len(self.data.rows_by_client)
        how = self.data.train.lengths[own], self.recipe.world.data.batching, self.recipe.run.seed, number
        return [own[batch_indices(*how, step)] for step in range(index * count, (index + 1) * count)]

    def flop(self, index: int, table: CostTable, rank: int) -> float:
        """Compute of a round's steps in a model with these costs (FLOP)."""
        return flop_of(table, rank, workload_of(self.data.train, [[rows] for rows in self.rows(index)]))


def flop_of(table: CostTable, rank: int, workload: Workload, forward_only: bool = False) -> float:
    """Compute of one trainer's steps in a whole model (FLOP)."""
    work = split_work(table, np.array([table.num_layers]), np.array([rank]), rank, workload)
    forward, backward = work.client_forward_flop_K, work.client_backward_flop_K
    return float(np.sum(forward) + (0 if forward_only else np.sum(backward)))
