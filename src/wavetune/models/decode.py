"""Generation for all clients of a cohort at once: ragged prompts, a static key-value cache, adapters per client.

Prompts go through the model without padding and fill the cache; then every step takes one token of each live sample.
Those that end leave their rows to the next prompts, so that no step works on finished ones. A model whose attention
cannot be exchanged reads its texts anew for every token.

Legend: S samples, L live samples, N tokens, T cached positions, H heads, G key-value heads, D head width, V vocabulary,
R rows of the cache.
"""

from collections import Counter, deque
from collections.abc import Collection, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from wavetune.errors import ConfigError, ModelError
from wavetune.machine_memory import memory_bytes
from wavetune.models.backbone import Backbone
from wavetune.models.fused import LEAST_WIDTH
from wavetune.models.lora import AdapterBank
from wavetune.models.loss import is_swept
from wavetune.models.ragged import RaggedLayout, Reach, Rule, attention, ragged_layout
from wavetune.models.stopping import Ends, length_of_end
from wavetune.seeds import stream
from wavetune.units import Array

_CACHE_BYTES, _MOST_SAMPLES = 1 << 30, 128
_PART_OF_MEMORY = 16  # of the machine's, which a cache may take
_TOKENS_READ, _TOKENS_READ_THERE = 1024, 32768  # of prompts in a pass on a CPU, and on an accelerator
_LEAST_READ = 256  # for which a pass is worth it
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

    draws_ST: Array
    temperature: float = 1.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not self.temperature > 0 or not 0 < self.top_p <= 1:
            raise ConfigError(
                f"temperature is {self.temperature} and top_p {self.top_p}; the first must be above 0, "
                "the second above 0 and at most 1"
            )


def keyed_draws(seed: int, purpose: str, round_index: int, owners: Sequence[tuple[int, int]], tokens: int) -> Array:
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
        samples_at_once: how many samples the cache holds together; by default what fits 1 GB and a sixteenth of
            the machine's memory, 128 at most. Results do not depend on it.
        keep_states: whether answers tell what the output layer saw before each token.
    Returns: answers, with log-probabilities under the policy that was sampled from (greedily: at temperature 1).
    Raises: ConfigError if a prompt is empty, or with its answer longer than the model takes; ModelError for an encoder.
    """
    if not prompts:
        return []
    _check_room(backbone, prompts, max_new_tokens, backbone.key_tokens(bank))
    owners = list(owner_S) or [0] * len(prompts)
    ends = frozenset((end,) if isinstance(end, int) else tuple(end) for end in stop_ids)
    length = backbone.key_tokens(bank) + max(map(len, prompts)) + max_new_tokens
    room_bytes = min(_CACHE_BYTES, memory_bytes() // _PART_OF_MEMORY)
    most = samples_at_once or max(1, min(_MOST_SAMPLES, room_bytes // _samples_bytes(backbone, 1, length)))
    samples = [_Sample(i, k, tuple(prompt)) for i, (k, prompt) in enumerate(zip(owners, prompts, strict=True))]
    _Decoding(backbone, bank, samples, min(most, len(samples)), length).run(max_new_tokens, ends, sampling, keep_states)
    return [sample.answer(ends) for sample in samples]


def _samples_bytes(backbone: Backbone, samples: int, length: int) -> int:
    """Bytes of the keys and values of so many samples of so many tokens; without attention, of its states."""
    config = backbone.model.config.get_text_config()

    def told(name: str) -> int:
        with suppress(AttributeError, RuntimeError):  # of what differs from block to block
            return getattr(config, name) or 0
        return 0

    heads = told("num_attention_heads") or 1
    groups, width = told("num_key_value_heads") or heads, told("head_dim") or backbone.width // heads
    return 2 * samples * length * groups * width * backbone.num_layers * _kept_in(backbone).itemsize


def _kept_in(backbone: Backbone) -> torch.dtype:
    """The precision of kept keys and values: on a CPU bf16 where weights are."""
    return backbone.dtype if backbone.exact or backbone.device.type != "cpu" else torch.bfloat16


@dataclass(eq=False)
class _Sample:
    """A prompt of one owner, and what was answered so far; while it is live it has a row of the cache."""

    place: int
    owner: int
    prompt: tuple[int, ...]
    row: int = -1
    ids: list[int] = field(default_factory=list[int])
    log_probs: list[float] = field(default_factory=list[float])
    entropies: list[float] = field(default_factory=list[float])
    states: list[Tensor] = field(default_factory=list[Tensor])

    def answer(self, ends: Ends) -> Answer:
        """What was answered."""
        states = torch.stack(self.states) if self.states else None
        ended = length_of_end(self.ids, ends) > 0
        return Answer(tuple(self.ids), tuple(self.log_probs), ended, tuple(self.entropies), states)


class _Decoding:
    """Samples that are decoded together, as many at a time as the cache has rows; whoever waits takes the rows of those
    that ended. The logits of the live samples' next tokens stand ready after each pass.
    """

    def __init__(
        self, backbone: Backbone, bank: AdapterBank | None, samples: Sequence[_Sample], rows: int, length: int
    ) -> None:
        self.backbone, self.bank, self.before = backbone, bank, backbone.key_tokens(bank)
        alike: dict[tuple[int, tuple[int, ...]], list[_Sample]] = {}
        for sample in samples:
            alike.setdefault((sample.owner, sample.prompt), []).append(sample)
        self.waiting = deque(own[i : i + rows] for own in alike.values() for i in range(0, len(own), rows))
        self.cache, self.free, self.live = _Cache(rows, length, _kept_in(backbone)), list(range(rows)), list[_Sample]()
        self.states_LD, self.logits_LV = torch.empty(0), torch.empty(0)

    def run(self, max_new_tokens: int, ends: Ends, sampling: Sampling | None, keep_states: bool) -> None:
        """Answer all prompts."""
        while self.waiting or self.live:
            while bundles := self._next():
                self._begin(bundles)
            self._choose(sampling, keep_states)
            gone = [s for s in self.live if len(s.ids) >= max_new_tokens or length_of_end(s.ids, ends)]
            self.live = [sample for sample in self.live if sample not in gone]
            self.free += [sample.row for sample in gone]
            if self.live:
                self._advance()

    def _next(self) -> list[list[_Sample]]:
        """Samples that wait and for which there is room, as many as make a pass; those that answer one prompt together.

        None while they are too few for a pass that is worth it.
        """
        most = _TOKENS_READ if self.backbone.device.type == "cpu" else _TOKENS_READ_THERE
        chosen, rows, tokens = list[list[_Sample]](), len(self.free), 0
        for bundle in self.waiting:
            size = len(bundle[0].prompt)
            if len(bundle) > rows or (chosen and tokens + size > most):
                break
            chosen, rows, tokens = [*chosen, bundle], rows - len(bundle), tokens + size
        if self.live and tokens < _LEAST_READ and len(chosen) < len(self.waiting):
            return []
        for _ in chosen:
            self.waiting.popleft()
        return chosen

    def _begin(self, bundles: list[list[_Sample]]) -> None:
        """Read each bundle's prompt once; its samples go on from the same keys and values."""
        for sample in (sample for bundle in bundles for sample in bundle):
            sample.row = self.free.pop()
        states_LD, logits_LV = self._read([bundle[0] for bundle in bundles])
        if any(len(bundle) > 1 for bundle in bundles):
            self.cache.copy([(own[0].row, sample.row) for own in bundles for sample in own[1:]])
            first = [number for number, bundle in enumerate(bundles) for _ in bundle]
            states_LD, logits_LV = states_LD[first], logits_LV[first]
        if self.live:
            states_LD, logits_LV = torch.cat([self.states_LD, states_LD]), torch.cat([self.logits_LV, logits_LV])
        self.live += [sample for bundle in bundles for sample in bundle]
        order = sorted(range(len(self.live)), key=lambda i: self.live[i].owner)  # an owner's samples are one product
        if order != list(range(len(order))):
            self.live = [self.live[i] for i in order]
            states_LD, logits_LV = states_LD[order], logits_LV[order]
        self.states_LD, self.logits_LV = states_LD, logits_LV

    def _choose(self, sampling: Sampling | None, keep_states: bool) -> None:
        live = self.live
        draws = sampling.draws_ST[[s.place for s in live], [len(s.ids) for s in live]] if sampling else None
        found = _choose(self.logits_LV, draws, sampling)
        for sample, token, log_prob, entropy, state in zip(
            live, *(values_L.tolist() for values_L in found), self.states_LD, strict=True
        ):
            sample.ids.append(token)
            sample.log_probs.append(log_prob)
            if keep_states:
                sample.states.append(state)
                sample.entropies.append(entropy)

    def _read(self, samples: Sequence[_Sample]) -> tuple[Tensor, Tensor]:
        """Normed states and logits after whole texts, which fill the cache where attention lets it be kept."""
        device, texts = self.backbone.device, [[*sample.prompt, *sample.ids] for sample in samples]
        sizes = [len(text) for text in texts]
        layout = ragged_layout(sizes, device, self.before)
        if self.backbone.way.packed:
            rows = torch.tensor([sample.row for sample in samples], device=device)
            rows_N = rows.repeat_interleave(torch.tensor(sizes, device=device))
            layout = _Filling(**vars(layout), cache=self.cache, rows_N=rows_N)
        hidden = self._forward(samples, [token for text in texts for token in text], layout, self.bank)
        return self._logits(hidden[np.cumsum(sizes) - 1])

    def _advance(self) -> None:
        live, device = self.live, self.backbone.device
        if not self.backbone.way.packed:
            self.states_LD, self.logits_LV = self._read(live)
            return
        if not self.waiting and 2 * len(live) <= self.cache.rows:
            self.cache.keep([sample.row for sample in live])
            for row, sample in enumerate(live):
                sample.row = row
        rows_N = torch.tensor([sample.row for sample in live], device=device)
        positions_N = torch.tensor([self.before + len(s.prompt) + len(s.ids) - 1 for s in live], device=device)
        layout: dict[str, Any] = vars(ragged_layout([1] * len(live), device))
        layout = layout | {"positions_N": positions_N}
        reading = _Reading(**layout, cache=self.cache, rows_N=rows_N, longest=int(positions_N.max()) + 1)
        newest = [sample.ids[-1] for sample in live]
        hidden = self._forward(live, newest, reading, self.bank and self.bank.only(_BEHIND_A_PROMPT))
        self.states_LD, self.logits_LV = self._logits(hidden)

    def _forward(
        self, samples: Sequence[_Sample], tokens: list[int], layout: RaggedLayout, bank: AdapterBank | None
    ) -> Tensor:
        owners, counts = list[int](), list[int]()
        for owner, group in groupby(zip(samples, layout.lengths, strict=True), key=lambda pair: pair[0].owner):
            owners.append(owner)
            counts.append(sum(length for _, length in group))
        ids_N = torch.tensor(tokens, device=self.backbone.device)
        return self.backbone.forward(ids_N, layout, bank, owners, counts)

    def _logits(self, hidden_LD: Tensor) -> tuple[Tensor, Tensor]:
        head = self.backbone.head
        if head is None:
            raise ModelError(f"{type(self.backbone.model).__name__} is an encoder and writes no text; choose a decoder")
        normed_LD = self.backbone.final_norm(hidden_LD)
        return normed_LD, head.product(normed_LD) if head.narrow else head.logits(normed_LD)[0]


class _Cache:
    """Keys and values of samples, a row each, per layer `[R, G, T, D]`."""

    def __init__(self, rows: int, length: int, dtype: torch.dtype) -> None:
        self.rows, self.length, self.dtype = rows, length, dtype
        self.layers: dict[Hashable, tuple[Tensor, Tensor]] = {}

    def write(self, layer: Hashable, rows_N: Tensor, positions_N: Tensor, key: Tensor, value: Tensor) -> None:
        """Store the keys and values of tokens, `[N, G, width]`."""
        for stored, new in zip(self.of(layer, key, value), (key, value), strict=True):
            stored[rows_N, :, positions_N] = new.to(stored.dtype)

    def of(self, layer: Hashable, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """A layer's keys and values; room for such as these if it has none."""
        if layer not in self.layers:
            room = self.rows, key.shape[1], self.length
            keys, values = (x.new_zeros(*room, x.shape[2], dtype=self.dtype) for x in (key, value))
            self.layers[layer] = keys, values
        return self.layers[layer]

    def copy(self, rows: Sequence[tuple[int, int]]) -> None:
        """Copy rows, each given as its number and that of its copy."""
        for stored in (stored for own in self.layers.values() for stored in own):
            stored[[copy for _, copy in rows]] = stored[[row for row, _ in rows]]

    def keep(self, rows: list[int]) -> None:
        """Drop all rows but these, which are numbered anew."""
        self.rows = len(rows)
        for layer in self.layers:  # one after the other, so that there are never two whole caches
            self.layers[layer] = self.layers[layer][0][rows], self.layers[layer][1][rows]


@dataclass(frozen=True)
class _Filling(RaggedLayout):
    """Prompts: tokens attend within their sample, and leave their keys and values in the cache.

    A layer may attend several times in a pass, as differential attention does; each time has a place of its own.
    """

    cache: _Cache
    rows_N: Tensor
    times: Counter[Hashable] = field(default_factory=Counter[Hashable], kw_only=True)

    def place(self, layer: Hashable) -> Hashable:
        """Where the cache has what a layer attends to this time."""
        self.times[layer] += 1
        return layer, self.times[layer]

    def attend(self, layer: Hashable, query: Tensor, key: Tensor, value: Tensor, rule: Rule) -> Tensor:
        layer = self.place(layer)
        self.cache.write(layer, self.rows_N, self.positions_N, key, value)
        if rule.before is not None:
            keys, values = rule.before
            ends_S = torch.tensor(self.lengths, device=key.device).cumsum(0)
            places = torch.arange(keys.shape[1], device=key.device).repeat(len(ends_S))
            rows = self.rows_N[ends_S - 1].repeat_interleave(keys.shape[1])
            self.cache.write(layer, rows, places, keys.flatten(0, 1), values.flatten(0, 1))
        return super().attend(layer, query, key, value, rule)


@dataclass(frozen=True)
class _Reading(_Filling):
    """One new token a sample, which attends to the cache: its `longest` first positions are in use."""

    longest: int
    firsts: dict[Reach, Tensor | None] = field(default_factory=dict[Reach, Tensor | None])

    def attend(self, layer: Hashable, query: Tensor, key: Tensor, value: Tensor, rule: Rule) -> Tensor:
        """By a compiled sweep where one serves, else as one product `[L, H, E]`: the query heads that share a key-value
        head stand as its queries, and rows of the cache without a live sample are read too, for nothing.
        """
        layer = self.place(layer)
        swept = query.dtype == torch.float32 and query.device.type == "cpu" and query[0].numel() >= LEAST_WIDTH
        if swept and (first_L := self._first(rule.reach)) is not None:
            from wavetune.models.kernels import read_kept

            places = self.rows_N, first_L, self.positions_N
            bends = rule.factor(query.shape[2]), rule.softcap, rule.sinks
            return read_kept(query, key, value, *places, *self.cache.of(layer, key, value), *bends)
        self.cache.write(layer, self.rows_N, self.positions_N, key, value)
        keys, values = (stored[:, :, : self.longest].to(query.dtype) for stored in self.cache.layers[layer])
        grouped = self._by_row(query.reshape(query.shape[0], key.shape[1], -1, query.shape[2]))
        sinks = None if rule.sinks is None else rule.sinks.reshape(key.shape[1], -1, 1)
        attended = attention(grouped, keys, values, *self.mask(0, rule.reach), rule, sinks)
        return attended.index_select(0, self.rows_N).reshape(*query.shape[:2], -1)

    def _first(self, reach: Reach) -> Tensor | None:
        """The first place that each token reads, if it reads all from there to its own, `[L]`."""
        if reach not in self.firsts:
            place, own = torch.arange(self.longest), self.positions_N[:, None]
            seen = reach.seen(own, place)
            first_L = seen.int().argmax(1)
            whole = torch.equal(seen, (place >= first_L[:, None]) & (place <= own))
            self.firsts[reach] = first_L if whole else None
        return self.firsts[reach]

    def _mask(self, group: int, reach: Reach) -> tuple[Tensor | None, bool]:
        place = torch.arange(self.longest, device=self.positions_N.device)
        return reach.seen(self._by_row(self.positions_N)[:, None], place)[:, None, None, :], False

    def _by_row(self, values: Tensor) -> Tensor:
        """Values of the live samples `[L, ...]` in the rows of the cache, zeros in the others, `[R, ...]`."""
        return values.new_zeros(self.cache.rows, *values.shape[1:]).index_copy_(0, self.rows_N, values)


def _choose(logits_LV: Tensor, draws_L: Array | None, sampling: Sampling | None) -> tuple[Tensor, Tensor, Tensor]:
    """A token of each row, its log-probability and the row's entropy, `[L]`."""
    draw_L = None if draws_L is None else torch.from_numpy(draws_L).to(logits_LV.device)
    temperature, top_p = (sampling.temperature, sampling.top_p) if sampling else (1.0, 1.0)
    if top_p == 1 and is_swept(logits_LV):
        from wavetune.models.kernels import chosen

        return chosen(logits_LV, draw_L, temperature)
    wide = torch.promote_types(logits_LV.dtype, torch.float32)
    log_probs = torch.log_softmax(logits_LV.to(wide) / temperature, -1)
    if top_p < 1:
        log_probs = _nucleus(log_probs, top_p)
    if draw_L is None:
        ids_L = log_probs.argmax(-1)
    else:
        reached = log_probs.to(torch.float64, copy=True)
        reached.exp_().cumsum_(-1)  # in place, as each copy is new memory from the system
        ids_L = torch.searchsorted(reached, draw_L[:, None] * reached[:, -1:], right=True)[:, 0]
        ids_L = ids_L.clamp(max=logits_LV.shape[1] - 1)
    log_prob_L = log_probs.gather(1, ids_L[:, None])[:, 0]
    return ids_L, log_prob_L, torch.special.entr(log_probs.exp_()).sum(-1)


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
