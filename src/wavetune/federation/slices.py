"""A slice of a cohort: some of its clients, trained where the others and the server's optimiser are not.

Clients keep their numbers in the cohort, so that weights, cuts, meters and errors mean the same in a slice. What
clients share in a step is the main server's adapters: each slice gives the gradient of its own passes, and whoever
holds the server adds them in the order of the clients, as one process does.
Legend: K clients, L blocks, S slots.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wavetune.federation.cohort import Batches, Cohort, Named
from wavetune.federation.cut import LossSum
from wavetune.federation.optimise import StackedOptimiser
from wavetune.federation.run_folder import part_of
from wavetune.models.lora import AdapterBank, Matrices, named_matrices


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

    Losses of its clients, tokens, bits by (kind, client), and the gradient of the server's adapters of every pass, by
    site and factor, in the order of the passes. Whose values did not stay finite is `given_up`, and says why.
    """

    losses: dict[int, LossSum]
    tokens: int
    bits: Counter[tuple[str, int]]
    server_gradients: list[Named]
    given_up: dict[int, str]


def step_slice(cohort: Cohort, batches: Batches, factor: float, active_K: Sequence[bool]) -> SliceStep:
    """One local step of a slice's clients that have batches; who is active in the whole cohort sets the weights."""
    cohort.server_gradients = gradients = list[Named]()
    active = [client for client, on in enumerate(active_K) if on]
    losses, given_up = cohort.gradients(batches, sorted(batches.tokens), active)
    cohort.step_clients(factor, losses)
    count = sum(batches.tokens[client] for client in losses)
    return SliceStep(losses, count, cohort.link.door.take(), gradients, given_up)


def slice_of(cohort: Cohort, clients: range) -> Cohort:
    """Some clients of a cohort that has not trained yet, and a copy of the server's adapters."""
    bank = cohort.bank
    local_LK = bank.local_LK & np.isin(np.arange(bank.local_LK.shape[1]), clients)  # pyright: ignore[reportUnknownArgumentType]
    local = dict[str, Matrices]()
    for site in bank.sites:
        slots = _slots(bank, site.layer, clients)
        if slots:
            local[site.name] = {
                name: t[slots].detach().requires_grad_(t.requires_grad) for name, t in bank.local[site.name].items()
            }
    own = replace(bank, local_LK=local_LK, local=local)
    return replace(cohort, bank=own, optimiser=StackedOptimiser(own, cohort.optimiser.settings))


def alone(cohort: Cohort, clients: range) -> Cohort:
    """A slice of a cohort whose clients share nothing, as a cohort of its own: the first client is number 0."""
    return replace(cohort, bank=replace(cohort.bank, local_LK=cohort.bank.local_LK[:, clients.start : clients.stop]))


def client_state(cohort: Cohort, clients: range) -> Named:
    """Adapters and moments of some clients, `[their slots, ...]`."""
    moments = cohort.optimiser.client_moments(clients)
    return client_adapters(cohort, clients) | {f"optimiser.{name}": t for name, t in moments.items()}


def client_adapters(cohort: Cohort, clients: range) -> Named:
    """Adapters of some clients, `[their slots, ...]`, as `load_client_state` takes them."""
    return {f"adapter.{name}": stack[slots].detach() for name, stack, slots in _client_stacks(cohort.bank, clients)}


@torch.no_grad()
def load_client_state(cohort: Cohort, clients: range, state: Mapping[str, Tensor]) -> None:
    """Continue for some clients from what `client_state` returned, of the whole cohort or of a slice of it."""
    for name, stack, slots in _client_stacks(cohort.bank, clients):
        stack[slots] = state[f"adapter.{name}"].to(stack.device)
    cohort.optimiser.load_client_moments(clients, part_of(state, "optimiser."))


def server_state(cohort: Cohort) -> Named:
    """The server's adapters, `[1, ...]`."""
    return {name: t.detach() for name, t in named_matrices(cohort.bank.shared)}


@torch.no_grad()
def load_server_state(cohort: Cohort, state: Mapping[str, Tensor]) -> None:
    """Act with the server's adapters that `server_state` returned."""
    for name, parameter in named_matrices(cohort.bank.shared):
        parameter.copy_(state[name])


def add_server_gradients(cohort: Cohort, gradients: Mapping[str, Tensor]) -> None:
    """Add one pass's gradient of the server's adapters to those of the passes before it."""
    for name, parameter in named_matrices(cohort.bank.shared):
        if name in gradients:
            gradient = gradients[name].to(parameter.device)
            parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)


def scale_server_gradients(cohort: Cohort, factor: float) -> None:
    """Let those who are left count for those who were given up."""
    for _, parameter in named_matrices(cohort.bank.shared):
        if parameter.grad is not None:
            parameter.grad.mul_(factor)


def _slots(bank: AdapterBank, layer: int, clients: range) -> list[int]:
    return [int(slot) for slot in bank.slots(layer)[clients.start : clients.stop] if slot >= 0]


def _client_stacks(bank: AdapterBank, clients: range) -> Iterator[tuple[str, Tensor, list[int]]]:
    for site in bank.sites:
        if slots := _slots(bank, site.layer, clients):
            for name, stack in bank.local[site.name].items():
                yield f"{site.name}.{name}", stack, slots
