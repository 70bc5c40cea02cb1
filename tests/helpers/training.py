"""One training job in two forms: wavetune's stacked cohort, and stock PEFT models that know nothing of each other.

The second form is the oracle of the training laws. Client k owns a whole stock model; blocks that it leaves to the
server carry a copy of the server's adapter, whose gradient is gathered from all models with the client weights.

Both compute in fp64. In fp32 Adam makes a step of the learning rate of a gradient that is nothing but rounding, so that
how close two runs end up depends on the processor.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from torch import Tensor

from helpers.adapters import pair_of, widths_of
from wavetune.data.templates import TokenSet
from wavetune.federation.codecs import Codec, Fp64
from wavetune.federation.cohort import Cohort
from wavetune.federation.cut import CutLink
from wavetune.federation.door import Door
from wavetune.federation.optimise import AdamW, StackedOptimiser
from wavetune.federation.placement import Placement
from wavetune.models.backbone import Backbone, load_backbone, load_stock_model
from wavetune.models.double import compute_in_double
from wavetune.models.lora import AdapterBank, Matrices, new_bank
from wavetune.models.resolve import resolve_model
from wavetune.runtimes.session import client_factors

NUM_LAYERS = 4  # of both tiny models
TOLERANCE = 1e-10  # of losses around 5 and factors around 0.1
Rows = list[list[np.ndarray]]  # rows[step][client]
Factors = Mapping[str, tuple[Tensor, Tensor]]  # site -> A [in, R], B [R, out]

PLAIN_ADAMW = AdamW(
    learning_rate=1e-2, weight_decay=0.1, schedule="constant", warmup_steps=0, max_grad_norm=None, epsilon=1e-6
)


@dataclass(frozen=True)
class Job:
    """What is trained; the defaults are three clients cut in the middle, unlike in weight."""

    model: str = "tiny"
    cut_K: tuple[int, ...] = (2, 2, 2)
    tail_K: tuple[int | None, ...] = (None, None, None)
    rank_K: tuple[int, ...] = (4, 4, 4)
    weight_K: tuple[float, ...] = (0.2, 0.3, 0.5)
    split: bool = True
    sequential: bool = False
    adamw: AdamW = PLAIN_ADAMW
    codec: Codec = field(default_factory=Fp64)
    tokens_per_pass: int = 40
    alpha: float = 8.0
    seed: int = 0
    dtype: torch.dtype = torch.float64

    @property
    def placement(self) -> Placement:
        return Placement(NUM_LAYERS, self.cut_K, self.tail_K, self.weight_K, self.split, self.sequential)

    @property
    def width(self) -> int:
        """The common rank R, which is also the server's."""
        return max(self.rank_K)

    @property
    def scale(self) -> float:
        return self.alpha / self.width


@dataclass(frozen=True)
class Outcome:
    """Losses of every step and client, and the factors each client's tokens see at the end."""

    loss_IK: np.ndarray
    factors_K: list[dict[str, Matrices]]


@cache
def folder_of(model: str) -> Path:
    return resolve_model(model).folder


def tokens_of(rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> TokenSet:
    """Token set of (prompt ids, answer ids)."""
    sizes = [len(prompt) + len(answer) for prompt, answer in rows]
    return TokenSet(
        ids=np.array([t for prompt, answer in rows for t in (*prompt, *answer)], np.int32),
        offsets=np.cumsum([0, *sizes]),
        label_start=np.array([len(prompt) for prompt, _ in rows]),
        domains=("",) * len(rows),
        example_index=np.arange(len(rows)),
    )


def random_rows(count: int = 24, seed: int = 0) -> list[tuple[list[int], list[int]]]:
    """Prompts and answers of 1 to 8 random tokens."""
    rng = np.random.default_rng(seed)

    def some(least: int) -> list[int]:
        return [int(t) for t in rng.integers(3, 250, rng.integers(least, 9))]

    return [(some(1), some(1)) for _ in range(count)]


def random_batches(num_clients: int, steps: int = 4, rows: int = 24, seed: int = 1) -> Rows:
    """Batches of 1 to 3 rows, unlike for every step and client."""
    rng = np.random.default_rng(seed)
    return [[rng.integers(0, rows, rng.integers(1, 4)) for _ in range(num_clients)] for _ in range(steps)]


def cohort_of(job: Job, factors: Factors | None = None) -> Cohort:
    """The stacked engine, adapters filled with random factors (B too, so that all gradients are alive)."""
    backbone = load_backbone(folder_of(job.model), dtype=job.dtype)
    local_LK = job.placement.local_LK()
    bank = new_bank(backbone.sites, local_LK, job.rank_K, job.width, job.alpha, job.seed, dtype=job.dtype)
    fill(bank, factors or random_factors(backbone, job.width, job.seed), job.rank_K)
    link = CutLink(Door(), job.codec, job.codec)
    return Cohort(backbone, bank, job.placement, link, StackedOptimiser(bank, job.adamw), job.tokens_per_pass)


def random_factors(backbone: Backbone, width: int, seed: int) -> dict[str, tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(backbone.dtype) * 0.1

    return {site.name: (drawn(widths_of(site)[0], width), drawn(width, widths_of(site)[1])) for site in backbone.sites}


@torch.no_grad()
def fill(bank: AdapterBank, factors: Factors, rank_K: Sequence[int]) -> None:
    """The same factors for everyone, each client cut to its rank."""
    for site in bank.sites:
        A, B = factors[site.name]
        if site.name in bank.shared:
            for stored, new in zip(bank.shared[site.name].values(), (A, B), strict=True):
                stored[0] = new
        if site.name in bank.local:
            pair = bank.local[site.name]
            for slot, client in enumerate(np.flatnonzero(bank.local_LK[site.layer])):
                rank = rank_K[client]
                pair["A"][slot, :, :rank], pair["B"][slot, :rank] = A[:, :rank], B[:rank]


def stacked(job: Job, tokens: TokenSet, batches: Rows) -> Outcome:
    """Train with wavetune's cohort."""
    cohort = cohort_of(job)
    losses = [cohort.step(tokens, rows, 1.0).loss_K for rows in batches]
    return Outcome(np.array(losses), [client_factors(cohort.bank, k) for k in range(len(job.cut_K))])


def separate(job: Job, tokens: TokenSet, batches: Rows) -> Outcome:
    """Train with stock models; `job.split`, codec and passes mean nothing here."""
    backbone = load_backbone(folder_of(job.model), dtype=torch.float64)
    initial, local_LK = random_factors(backbone, job.width, job.seed), job.placement.local_LK()
    own_K = [{s.name: bool(local_LK[s.layer, k]) for s in backbone.sites} for k in range(len(job.cut_K))]
    models = [
        peft_model(job, initial, {name: rank if own else job.width for name, own in owned.items()})
        for rank, owned in zip(job.rank_K, own_K, strict=True)
    ]
    optimisers = [
        torch_adamw({key: p for key, p in lora_parameters(m).items() if owned[key[0]]}, job.adamw)
        for m, owned in zip(models, own_K, strict=True)
    ]
    common = {
        key: p.detach().clone().requires_grad_()
        for m, owned in zip(models, own_K, strict=True)
        for key, p in lora_parameters(m).items()
        if not owned[key[0]]
    }
    server = torch_adamw(common, job.adamw)
    losses = []
    for rows_K in batches:
        losses.append([])
        for k, (model, rows) in enumerate(zip(models, rows_K, strict=True)):
            copy_common(common, model, own_K[k])
            loss = stock_loss(model, tokens, rows)
            loss.backward()
            losses[-1].append(loss.item())
            gather(common, model, own_K[k], 1.0 if job.sequential else job.weight_K[k])
            update(optimisers[k], job.adamw)
            if job.sequential:
                update(server, job.adamw)
        if not job.sequential:
            update(server, job.adamw)
    for model, owned in zip(models, own_K, strict=True):
        copy_common(common, model, owned)
    return Outcome(np.array(losses), [peft_factors(model) for model in models])


def peft_model(job: Job, initial: Factors, rank_of: Mapping[str, int]) -> Any:
    """Stock PEFT model with its own rank at every site, its factors cut from the initial ones."""
    base = load_stock_model(folder_of(job.model), torch.float64, attn_implementation="eager")
    compute_in_double(base)
    config = LoraConfig(
        r=job.width,
        lora_alpha=job.alpha,
        target_modules=list(rank_of),
        rank_pattern=dict(rank_of),
        alpha_pattern={name: job.scale * rank for name, rank in rank_of.items()},
        fan_in_fan_out="gpt2" in job.model,
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(base, config)
    with torch.no_grad():
        for (name, factor), parameter in lora_parameters(model).items():
            rank, (A, B) = rank_of[name], initial[name]
            parameter.copy_(A[:, :rank].T if factor == "A" else B[:rank].T)
    return model


def lora_parameters(model: Any) -> dict[tuple[str, str], torch.nn.Parameter]:
    """A stock PEFT model's factors by (site, "A" or "B")."""
    prefix, found = "base_model.model.", {}
    for name, module in model.named_modules():
        if hasattr(module, "lora_A"):
            found[name.removeprefix(prefix), "A"] = module.lora_A["default"].weight
            found[name.removeprefix(prefix), "B"] = module.lora_B["default"].weight
    return found


def peft_factors(model: Any) -> dict[str, Matrices]:
    parameters = {key: p.detach().T.clone() for key, p in lora_parameters(model).items()}
    return {name: pair_of(parameters[name, "A"], parameters[name, "B"]) for name, _ in parameters}


def stock_loss(model: Any, tokens: TokenSet, rows: Sequence[int]) -> Tensor:
    """Mean next-token loss at the labelled positions of a padded batch, as a stock Hugging Face loop computes it."""
    samples = [torch.tensor(tokens.row(int(i)).astype(np.int64)) for i in rows]
    ids = torch.nn.utils.rnn.pad_sequence(samples, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(s) for s in samples], batch_first=True)
    labels = torch.full_like(ids, -100)
    for row, (index, sample) in enumerate(zip(rows, samples, strict=True)):
        start = int(tokens.label_start[index])
        labels[row, start : len(sample)] = sample[start:]
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
    return F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())


def torch_adamw(parameters: Mapping[tuple[str, str], Tensor], settings: AdamW) -> torch.optim.AdamW | None:
    """An optimiser with a group of parameters for every block."""
    if not parameters:
        return None
    blocks = defaultdict[int, list[Tensor]](list)
    for (name, _), parameter in parameters.items():
        blocks[block_of(name)].append(parameter)
    return torch.optim.AdamW(
        [{"params": of_block} for of_block in blocks.values()],
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        eps=settings.epsilon,
        weight_decay=settings.weight_decay,
    )


def block_of(name: str) -> int:
    """Which block a site is in; a head counts to the last one."""
    return int(next((part for part in name.split(".") if part.isdigit()), NUM_LAYERS - 1))


def update(optimiser: torch.optim.AdamW | None, settings: AdamW) -> None:
    if optimiser is None:
        return
    if settings.max_grad_norm is not None:
        for group in optimiser.param_groups:
            torch.nn.utils.clip_grad_norm_(group["params"], settings.max_grad_norm / NUM_LAYERS**0.5)
    optimiser.step()
    optimiser.zero_grad()


@torch.no_grad()
def copy_common(common: Mapping[tuple[str, str], Tensor], model: Any, owned: Mapping[str, bool]) -> None:
    for key, parameter in lora_parameters(model).items():
        if not owned[key[0]]:
            parameter.copy_(common[key])


def gather(common: Mapping[tuple[str, str], Tensor], model: Any, owned: Mapping[str, bool], weight: float) -> None:
    """Add a model's weighted gradient to the server's."""
    for key, parameter in lora_parameters(model).items():
        if not owned[key[0]]:
            gradient = weight * parameter.grad
            common[key].grad = gradient if common[key].grad is None else common[key].grad + gradient
            parameter.grad = None


def assert_same(found: Outcome, wanted: Outcome, rank_K: Sequence[int], tolerance: float = TOLERANCE) -> None:
    """Losses and factors agree; what lies beyond a client's rank is exactly zero."""
    np.testing.assert_allclose(found.loss_IK, wanted.loss_IK, rtol=0, atol=tolerance)
    for client, (own, reference) in enumerate(zip(found.factors_K, wanted.factors_K, strict=True)):
        assert own.keys() == reference.keys()
        for name, pair in reference.items():
            rank = pair["A"].shape[1]
            assert rank >= rank_K[client]
            for factor, mine, theirs, rest in (
                ("A", own[name]["A"][:, :rank], pair["A"], own[name]["A"][:, rank:]),
                ("B", own[name]["B"][:rank], pair["B"], own[name]["B"][rank:]),
            ):
                assert not rest.any(), f"client {client} {name} {factor} beyond its rank"
                torch.testing.assert_close(
                    mine,
                    theirs,
                    rtol=0,
                    atol=tolerance,
                    msg=lambda m, w=f"client {client} {name} {factor}": f"{w}: {m}",
                )
