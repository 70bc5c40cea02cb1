"""Generation for all clients of a cohort at once: ragged prompts, a static key-value cache, adapters per client.

Prompts go through the model without padding and fill the cache; then every step takes one token of each live sample.
Samples that end leave the batch, so that no step works on finished ones. A model whose attention cannot be exchanged
reads its texts anew for every token.

Legend: S samples, L live samples, N tokens, T cached positions, H heads, G key-value heads, D head width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wavetune.errors import ConfigError, ModelError
from wavetune.models.backbone import Backbone
from wavetune.models.lora import AdapterBank
from wavetune.models.ragged import RaggedLayout, Reach, Rule, attention, ragged_layout
from wavetune.models.stopping import Ends, length_of_end
from wavetune.seeds import stream

_CACHE_BYTES, _MOST_SAMPLES = 512 << 20, 128
_BEHIND_A_PROMPT = ("lora", "bottleneck", "head")  # kinds of adapters that act on a token after the first pass


class Answer(NamedTuple):
    """Token ids (with the end if one came), the log-probability of each, and whether an end came.

    Where states were to be kept: what the output layer saw before each token, `[T, D]`, and the entropy there in nats.
    """

    ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    ended: bool
    entropies: tuple[float, ...] = ()
    states_TD: Tensor | None = None


@dataclass(frozen=True)
class Sampling:
    """Sampling from a policy by inverse distribution functions.

    `draws_ST[s, t]`, uniform in [0, 1), chooses token t of sample s. Logits are divided by `temperature`; with
    `top_p` below 1 only the likeliest tokens that together reach it remain.
    """

    draws_ST: NDArray[np.float64]
    temperature: float = 1.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not self.temperature > 0 or not 0 < self.top_p <= 1:
            raise ConfigError(
                f"temperature is {self.temperature} and top_p {self.top_p}; the first must be above 0, "
                "the second above 0 and at most 1"
            )


def keyed_draws(
    seed: int, purpose: str, round_index: int, owners: Sequence[tuple[int, int]], tokens: int
) -> NDArray[np.float64]:
    """Uniform draws whose rows depend on (seed, purpose, round) and their owner, (client identity, sample), alone.

    Returns: `[S, tokens]`; fewer tokens are the beginning of more.
    """
    rows = [stream(seed, f"{purpose} {sample}", round_index, client).random(tokens) for client, sample in owners]
    return np.array(rows).reshape(len(owners), tokens)


@torch.no_grad()
def decode(
    backbone: Backbone,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    stop_ids: Collection[int | tuple[int, ...]],
    bank: AdapterBank | None = None,
    owner_S: Sequence[int] = (),
    sampling: Sampling | None = None,
    samples_at_once: int | None = None,
    keep_states: bool = False,
) -> list[Answer]:
    """What follows each prompt, up to an end or `max_new_tokens`: greedily, or sampled if told how.

    Args:
        prompts: token ids, at least one each; under a soft prompt as many more before them, which are not looked at.
        stop_ids: tokens, or sequences of them, that end an answer.
        bank: adapters to act with; none is the plain base.
        owner_S: whose adapters answer each prompt, a position in the bank's cohort; the first client's by default.
        sampling: temperature, top-p and draws.
        samples_at_once: how many samples the cache holds together; by default what fits 512 MB, 128 at most. Results do
            not depend on it.
        keep_states: whether answers tell what the output layer saw before each token.
    Returns: answers, with log-probabilities under the policy that was sampled from (greedily: at temperature 1).
    Raises: ConfigError if a prompt is empty, or with its answer longer than the model takes; ModelError for an encoder.
    """
    if not prompts:
        return []
    _check_room(backbone, prompts, max_new_tokens, backbone.key_tokens(bank))
    owners, found = list(owner_S) or [0] * len(prompts), list[Answer]()
    ends = frozenset((end,) if isinstance(end, int) else tuple(end) for end in stop_ids)
    if samples_at_once is None:
        each = _samples_bytes(backbone, 1, backbone.key_tokens(bank) + max(map(len, prompts)) + max_new_tokens)
        samples_at_once = max(1, min(_MOST_SAMPLES, _CACHE_BYTES // each))
    batches = -(-len(prompts) // samples_at_once)  # of equal sizes, as small ones take as long
    for part in (slice(len(prompts) * i // batches, len(prompts) * (i + 1) // batches) for i in range(batches)):
        batch = _Batch(backbone, prompts[part], owners[part], bank, max_new_tokens)
        found += batch.run(max_new_tokens, ends, sampling, part.start, keep_states)
    return found


def _samples_bytes(backbone: Backbone, samples: int, length: int) -> int:
    """Bytes of the keys and values of so many samples of so many tokens; without attention, of its states."""
    config = backbone.model.config.get_text_config()
    heads: int = getattr(config, "num_attention_heads", None) or 1
    groups: int = getattr(config, "num_key_value_heads", None) or heads
    width: int = getattr(config, "head_dim", None) or backbone.width // heads
    return 2 * samples * length * groups * width * backbone.num_layers * backbone.dtype.itemsize


class _Batch:
    """Samples that are decoded together. The logits of the next tokens stand ready after each pass."""

    def __init__(
        self,
        backbone: Backbone,
        prompts: Sequence[Sequence[int]],
        owners: Sequence[int],
        bank: AdapterBank | None,
        max_new_tokens: int,
    ) -> None:
        self.backbone, self.bank = backbone, bank
        distinct = list(dict.fromkeys(zip(owners, map(tuple, prompts), strict=True)))
        self.owners, filled = [owner for owner, _ in distinct], [prompt for _, prompt in distinct]
        self.before = backbone.key_tokens(bank)
        self.lengths = [self.before + len(prompt) for prompt in filled]  # in the cache, of each live sample
        self.texts = [list(prompt) for prompt in filled]
        self.cache = _Cache(len(filled), max(self.lengths) + max_new_tokens)
        self.live = list(range(len(filled)))
        self.states_LD, self.logits_LV = self._read_texts()
        if len(distinct) < len(prompts):  # whoever answers the same prompt goes on from the same keys and values
            row_of = {key: row for row, key in enumerate(distinct)}
            rows = [row_of[key] for key in zip(owners, map(tuple, prompts), strict=True)]
            self._keep(rows)
            self.live = list(range(len(rows)))
            self.states_LD, self.logits_LV = self.states_LD[rows], self.logits_LV[rows]

    def run(
        self, max_new_tokens: int, ends: Ends, sampling: Sampling | None, first: int, keep_states: bool
    ) -> Iterator[Answer]:
        """Answers in the order of the prompts; `first` is the place of this batch's first sample among the draws."""
        ids, log_probs, entropies = ([list[Any]() for _ in self.live] for _ in range(3))
        states: list[list[Tensor]] = [[] for _ in self.live]
        for step in range(max_new_tokens):
            draws = sampling.draws_ST[[first + sample for sample in self.live], step] if sampling else None
            ids_L, log_probs_LV = _choose(self.logits_LV, draws, sampling)
            chosen, log_prob = ids_L.tolist(), log_probs_LV.gather(1, ids_L[:, None])[:, 0].tolist()
            for sample, token, value in zip(self.live, chosen, log_prob, strict=True):
                ids[sample].append(token)
                log_probs[sample].append(value)
            if keep_states:
                entropy_L = torch.special.entr(log_probs_LV.exp_()).sum(-1).tolist()
                for sample, state, value in zip(self.live, self.states_LD, entropy_L, strict=True):
                    states[sample].append(state)
                    entropies[sample].append(value)
            going = [row for row, sample in enumerate(self.live) if not length_of_end(ids[sample], ends)]
            if not going or step + 1 == max_new_tokens:
                break
            self._keep(going)
            self._advance([chosen[row] for row in going])
        for own, values, at, before in zip(ids, log_probs, entropies, states, strict=True):
            kept = torch.stack(before) if before else None
            yield Answer(tuple(own), tuple(values), length_of_end(own, ends) > 0, tuple(at), kept)

    def _keep(self, rows: list[int]) -> None:
        if rows != list(range(len(self.live))):
            self.live, self.lengths, self.owners = (
                [values[row] for row in rows] for values in (self.live, self.lengths, self.owners)
            )
            self.texts = [list(self.texts[row]) for row in rows]
            self.cache.keep(torch.tensor(rows, device=self.backbone.device))

    def _read_texts(self) -> tuple[Tensor, Tensor]:
        """Normed states and logits after whole texts, which fill the cache where attention lets it be kept."""
        device, sizes = self.backbone.device, [length - self.before for length in self.lengths]
        layout = ragged_layout(sizes, device, self.before)
        if self.backbone.way.packed:
            rows = torch.arange(len(self.texts), device=device)
            rows_N = rows.repeat_interleave(torch.tensor(sizes, device=device))
            layout = _Filling(**vars(layout), cache=self.cache, rows_N=rows_N)
        hidden = self._forward([token for text in self.texts for token in text], layout, self.bank)
        return self._logits(hidden[np.cumsum(sizes) - 1])

    def _advance(self, tokens: list[int]) -> None:
        device = self.backbone.device
        if not self.backbone.way.packed:
            for text, token in zip(self.texts, tokens, strict=True):
                text.append(token)
            self.lengths = [length + 1 for length in self.lengths]
            self.states_LD, self.logits_LV = self._read_texts()
            return
        rows_N = torch.arange(len(tokens), device=device)
        layout: dict[str, Any] = vars(ragged_layout([1] * len(tokens), device))
        layout = layout | {"positions_N": torch.tensor(self.lengths, device=device)}
        self.lengths = [length + 1 for length in self.lengths]
        reading = _Reading(**layout, cache=self.cache, rows_N=rows_N, longest=max(self.lengths))
        hidden = self._forward(tokens, reading, self.bank and self.bank.only(_BEHIND_A_PROMPT))
        self.states_LD, self.logits_LV = self._logits(hidden)

    def _forward(self, tokens: list[int], layout: RaggedLayout, bank: AdapterBank | None) -> Tensor:
        owners, counts = list[int](), list[int]()
        for owner, group in groupby(zip(self.owners, layout.lengths, strict=True), key=lambda pair: pair[0]):
            owners.append(owner)
            counts.append(sum(length for _, length in group))
        ids_N = torch.tensor(tokens, device=self.backbone.device)
        return self.backbone.forward(ids_N, layout, bank, owners, counts)

    def _logits(self, hidden_LD: Tensor) -> tuple[Tensor, Tensor]:
        head = self.backbone.head
        if head is None:
            raise ModelError(f"{type(self.backbone.model).__name__} is an encoder and writes no text; choose a decoder")
        normed_LD = self.backbone.final_norm(hidden_LD)
        return normed_LD, head.logits(normed_LD)[0]


class _Cache:
    """Keys and values of the live samples, per layer `[L, G, T, D]`."""

    def __init__(self, samples: int, length: int) -> None:
        self.samples, self.length = samples, length
        self.layers: dict[Hashable, tuple[Tensor, Tensor]] = {}

    def write(self, layer: Hashable, rows_N: Tensor, positions_N: Tensor, key: Tensor, value: Tensor) -> None:
        """Store the keys and values of tokens, `[N, G, width]`."""
        if layer not in self.layers:
            room = (self.samples, key.shape[1], self.length)
            self.layers[layer] = (key.new_zeros(*room, key.shape[2]), value.new_zeros(*room, value.shape[2]))
        for stored, new in zip(self.layers[layer], (key, value), strict=True):
            stored[rows_N, :, positions_N] = new

    def keep(self, rows: Tensor) -> None:
        """Drop all samples but these."""
        for layer in self.layers:  # one after the other, so that there are never two whole caches
            self.layers[layer] = self.layers[layer][0][rows], self.layers[layer][1][rows]


@dataclass(frozen=True)
class _Filling(RaggedLayout):
    """Prompts: tokens attend within their sample, and leave their keys and values in the cache."""

    cache: _Cache
    rows_N: Tensor

    def attend(self, layer: Hashable, query: Tensor, key: Tensor, value: Tensor, rule: Rule) -> Tensor:
        self.cache.write(layer, self.rows_N, self.positions_N, key, value)
        if rule.before is not None:
            keys, values = rule.before
            rows, places = torch.cartesian_prod(*(torch.arange(n, device=key.device) for n in keys.shape[:2])).unbind(1)
            self.cache.write(layer, rows, places, keys.flatten(0, 1), values.flatten(0, 1))
        return super().attend(layer, query, key, value, rule)


@dataclass(frozen=True)
class _Reading(_Filling):
    """One new token a sample, which attends to the cache: its `longest` first positions are in use."""

    longest: int

    def attend(self, layer: Hashable, query: Tensor, key: Tensor, value: Tensor, rule: Rule) -> Tensor:
        """The query heads that share a key-value head stand as the queries of one product. `[L, H, E]`."""
        self.cache.write(layer, self.rows_N, self.positions_N, key, value)
        keys, values = (stored[:, :, : self.longest] for stored in self.cache.layers[layer])
        grouped = query.reshape(query.shape[0], key.shape[1], -1, query.shape[2])
        sinks = None if rule.sinks is None else rule.sinks.reshape(key.shape[1], -1, 1)
        attended = attention(grouped, keys, values, *self.mask(0, rule.reach), rule, sinks)
        return attended.reshape(*query.shape[:2], -1)

    def _mask(self, group: int, reach: Reach) -> tuple[Tensor, bool]:
        place = torch.arange(self.longest, device=self.positions_N.device)
        return reach.seen(self.positions_N[:, None], place)[:, None, None, :], False


def _choose(logits_LV: Tensor, draws_L: NDArray[np.float64] | None, sampling: Sampling | None) -> tuple[Tensor, Tensor]:
    """Token of each row, and the log-probabilities of all `[L, V]`."""
    if sampling is None or draws_L is None:
        log_probs = torch.log_softmax(logits_LV, -1)
        ids_L = log_probs.argmax(-1)
    else:
        log_probs = torch.log_softmax(logits_LV / sampling.temperature, -1)
        if sampling.top_p < 1:
            log_probs = _nucleus(log_probs, sampling.top_p)
        reached = log_probs.double().exp().cumsum(-1)
        wanted = torch.from_numpy(draws_L).to(reached.device)[:, None] * reached[:, -1:]
        ids_L = torch.searchsorted(reached, wanted, right=True)[:, 0].clamp(max=logits_LV.shape[1] - 1)
    return ids_L, log_probs


def _nucleus(log_probs: Tensor, top_p: float) -> Tensor:
    """Log-probabilities among the likeliest tokens that together reach `top_p`, minus infinity elsewhere."""
    ranked, order = log_probs.sort(dim=-1, descending=True, stable=True)
    probs = ranked.exp()
    ranked = ranked.masked_fill(probs.cumsum(-1) - probs >= top_p, -torch.inf)
    return torch.empty_like(ranked).scatter_(1, order, torch.log_softmax(ranked, -1))


def _check_room(backbone: Backbone, prompts: Sequence[Sequence[int]], max_new_tokens: int, before: int) -> None:
    sizes = [len(prompt) for prompt in prompts]
    room = None if backbone.max_tokens is None else backbone.max_tokens - before
    if not min(sizes):
        raise ConfigError(f"prompt {sizes.index(0)} is empty; generation needs at least one token to start from")
    if room is not None and max(sizes) + max_new_tokens > room:
        raise ConfigError(
            f"a prompt of {max(sizes)} tokens and {max_new_tokens} new ones are more than the {room} that the model "
            "takes; shorten one of them"
        )
