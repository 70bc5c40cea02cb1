"""A slice of a cohort: some of its clients, trained where the others and the server's optimiser are not.

Clients keep their numbers in the cohort, so that weights, cuts, meters and errors mean the same in a slice. What
clients share in a step is the main server's adapters: each slice gives the gradient of its own passes, and whoever
holds the server adds them in the order of the clients, as one process does.
Legend: K clients, L blocks, S slots.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (the stubs of torch and safetensors leave parts of their types open)

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wavetune.data.batching import collate
from wavetune.data.templates import TokenSet
from wavetune.federation.cohort import Cohort, Rows
from wavetune.federation.optimise import StackedOptimiser
from wavetune.models.lora import AdapterBank, LoraPair

Named = dict[str, Tensor]


def balanced_slices(load_K: Sequence[float], count: int) -> tuple[range, ...]:
    """Consecutive clients in `count` slices, none empty, whose largest load is the least possible.

    >>> balanced_slices([5, 1, 1, 1, 4], 2)
    (range(0, 2), range(2, 5))
    """
    before_K = np.cumsum([0.0, *load_K])
    largest_K, cuts = np.where(np.arange(len(before_K)) > 0, before_K, np.inf), list[NDArray[np.intp]]()
    for _ in range(count - 1):
        # worst[start, stop]: the largest load if the last slice is start:stop
        worst = np.maximum(largest_K[:, None], before_K - before_K[:, None])
        worst[np.tril_indices(len(before_K))] = np.inf
        cuts.append(worst.argmin(0))
        largest_K = worst.min(0)
    stops = [len(load_K)]
    for cut in reversed(cuts):
        stops.append(int(cut[stops[-1]]))
    return tuple(range(start, stop) for start, stop in zip([0, *stops[:0:-1]], stops[::-1], strict=True))


@dataclass(frozen=True)
class SliceStep:
    """What a slice did in a local step.

    Summed loss in nats and labelled positions of its clients, tokens, bits by (kind, client), and the gradient of the
    server's adapters of every pass, by site and factor, in the order of the passes. Whose values did not stay finite is
    `given_up`, and says why.
    """

    nll: dict[int, float]
    labelled: dict[int, float]
    tokens: int
    bits: Counter[tuple[str, int]]
    server_gradients: list[Named]
    given_up: dict[int, str]


@dataclass
class SliceCohort(Cohort):
    """The clients `clients` of a cohort; its bank holds their slots, and a copy of the server's."""

    clients: range = field(kw_only=True)
    _taken: list[Named] = field(default_factory=list[Named], init=False)

    def step_slice(
        self, tokens: TokenSet, rows: Mapping[int, Rows], factor: float, active_K: Sequence[bool]
    ) -> SliceStep:
        """One local step of those clients of the slice that have rows; who is active in the cohort sets the weights."""
        num_clients, placement = self.placement.num_clients, self.placement.among(active_K)
        nll_K, labelled_K = np.zeros(num_clients), np.zeros(num_clients)
        lengths = {k: int(tokens.lengths[own].sum()) for k, own in rows.items()}

        def passes(clients: Collection[int]) -> None:
            for group in self._passes([lengths[k] if k in clients else 0 for k in range(num_clients)]):
                self._one_pass(collate(tokens, [rows[k] for k in group]), group, placement, nll_K, labelled_K)
                self._taken.append(self._take_server_gradients())

        given_up = self.without_faults(passes, list(rows), nll_K)
        gradients, self._taken = self._taken, []
        self._pull_to_anchor()
        self.optimiser.step_clients(factor, [k in rows and k not in given_up for k in range(num_clients)])
        nll, labelled = ({k: float(values[k]) for k in rows if k not in given_up} for values in (nll_K, labelled_K))
        count = sum(length for k, length in lengths.items() if k not in given_up)
        return SliceStep(nll, labelled, count, self.link.door.take(), gradients, given_up)

    def _shared_gradients(self) -> Iterable[Tensor]:
        return (gradient for gradients in self._taken for gradient in gradients.values())

    def _drop(self, clients: Collection[int], bits: Counter[tuple[str, int]]) -> None:
        super()._drop(clients, bits)
        self._taken = []

    def _take_server_gradients(self) -> Named:
        found = Named()
        for name, parameter in _factors(self.bank.shared):
            if parameter.grad is not None:
                found[name], parameter.grad = parameter.grad, None
        return found


def sliced(cohort: Cohort, clients: range) -> SliceCohort:
    """A slice of a cohort that has not trained yet."""
    bank = cohort.bank
    local_LK = bank.local_LK & np.isin(np.arange(bank.local_LK.shape[1]), clients)
    local = dict[str, LoraPair]()
    for site in bank.sites:
        slots = _slots(bank, site.layer, clients)
        if slots:
            local[site.name] = LoraPair(
                *(t[slots].detach().requires_grad_(t.requires_grad) for t in bank.local[site.name])
            )
    own = replace(bank, local_LK=local_LK, local=local)
    parts = {f.name: getattr(cohort, f.name) for f in fields(Cohort)}
    parts |= {"bank": own, "optimiser": StackedOptimiser(own, cohort.optimiser.settings)}
    return SliceCohort(**parts, clients=clients)


def client_state(cohort: Cohort, clients: range) -> Named:
    """Adapters and moments of some clients, `[their slots, ...]`."""
    bank, found = cohort.bank, Named()
    for name, stack, slots in _client_stacks(bank, clients):
        found[f"adapter.{name}"] = stack[slots].detach()
    return found | {f"optimiser.{k}": t for k, t in cohort.optimiser.client_moments(clients).items()}


@torch.no_grad()
def load_client_state(cohort: Cohort, clients: range, state: Mapping[str, Tensor]) -> None:
    """Continue for some clients from what `client_state` returned, of the whole cohort or of a slice of it."""
    for name, stack, slots in _client_stacks(cohort.bank, clients):
        stack[slots] = state[f"adapter.{name}"].to(stack.device)
    prefix = "optimiser."
    moments = {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}
    cohort.optimiser.load_client_moments(clients, moments)


def server_state(cohort: Cohort) -> Named:
    """The server's adapters, `[1, ...]`."""
    return {name: t.detach() for name, t in _factors(cohort.bank.shared)}


@torch.no_grad()
def load_server_state(cohort: Cohort, state: Mapping[str, Tensor]) -> None:
    """Act with the server's adapters that `server_state` returned."""
    for name, parameter in _factors(cohort.bank.shared):
        parameter.copy_(state[name])


def add_server_gradients(cohort: Cohort, gradients: Mapping[str, Tensor]) -> None:
    """Add one pass's gradient of the server's adapters to those of the passes before it."""
    for name, parameter in _factors(cohort.bank.shared):
        if name in gradients:
            gradient = gradients[name].to(parameter.device)
            parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)


def scale_server_gradients(cohort: Cohort, factor: float) -> None:
    """Let those who are left count for those who were given up."""
    for _, parameter in _factors(cohort.bank.shared):
        if parameter.grad is not None:
            parameter.grad.mul_(factor)


def _slots(bank: AdapterBank, layer: int, clients: range) -> list[int]:
    return [int(slot) for slot in bank.slots(layer)[clients.start : clients.stop] if slot >= 0]


def _client_stacks(bank: AdapterBank, clients: range) -> Iterator[tuple[str, Tensor, list[int]]]:
    for site in bank.sites:
        if slots := _slots(bank, site.layer, clients):
            for factor, stack in zip("AB", bank.local[site.name], strict=True):
                yield f"{site.name}.{factor}", stack, slots


def _factors(stacks: Mapping[str, LoraPair]) -> Iterator[tuple[str, Tensor]]:
    for name, pair in stacks.items():
        for factor, stack in zip("AB", pair, strict=True):
            yield f"{name}.{factor}", stack
