"""From a recipe's world to its planning: architecture, sample statistics, devices. Needs no torch."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from wavetune.allocation.problem import BoolArray
from wavetune.costs.architecture import PRESETS, Architecture
from wavetune.costs.memory import BY_PRECISION, FP32
from wavetune.costs.table import CostTable, Workload
from wavetune.data.classes import class_names
from wavetune.data.partition import Rows
from wavetune.data.plain_tokenizer import PlainTokenizer
from wavetune.data.settings import deal, load_samples, prepare
from wavetune.data.templates import TokenSet
from wavetune.errors import ConfigError, nearest
from wavetune.federation.method import NARROWEST, Method
from wavetune.federation.round_planner import RoundPlanner, SampleStatistics
from wavetune.models.architecture import architecture_of
from wavetune.recipe import Recipe
from wavetune.runtimes.counted_cache import Counted, recalled_count
from wavetune.units import Array, Ints
from wavetune.wireless.channel import draw_devices

_CHARACTERS_PER_TOKEN = 4.0


def workload_of(tokens: TokenSet, steps: Sequence[Sequence[Rows]], active_IK: BoolArray | None = None) -> Workload:
    """What the batches of a round ask, fields `[I, K]`; nothing of clients that sit out."""

    def sums(values: Ints) -> Array:
        asked_IK = np.array([[float(values[rows].sum()) for rows in step] for step in steps])
        return asked_IK if active_IK is None else asked_IK * active_IK

    lengths = tokens.lengths
    return Workload(sums(np.ones_like(lengths)), sums(lengths), sums(lengths**2), sums(tokens.labelled))


def plan_world(
    recipe: Recipe,
    architecture: Architecture,
    statistics: SampleStatistics,
    num_samples_K: Sequence[int],
    num_classes: int = 0,
) -> RoundPlanner:
    """The planner of a recipe's world; checks the method against the clients and the model."""
    method, run = recipe.method, recipe.run
    targets, prompt = method.lora.targets or architecture.default_lora_targets, method.prompt_tokens
    _require_use(recipe, num_classes)
    projections = architecture.lora_projections(targets)
    narrowest = min(min(p.in_features, p.out_features) for p in projections)
    num_clients, num_layers = recipe.world.scenario.population.num_clients, architecture.num_layers
    measured = method.rounds_to_target
    useful = {rank: rounds for rank, rounds in measured.items() if rank <= narrowest}
    if method.lora.rank is None and useful:  # a wider rank says no more
        method = replace(method, rounds_to_target=useful)
    method.check(num_clients, num_layers, narrowest)
    architecture = architecture if method.client_model is None else method.client_model.architecture(architecture)
    recipe.world.scenario.channel.require_rounds(run.rounds)
    table = CostTable(
        architecture,
        targets,
        input_needs_grad=prompt > 0 and (method.sharing.trained_layers or num_layers) == num_layers,
        adapters=method.beside_lora,
        outputs=num_classes or None,
        untouched_passes=method.objective.passes[0] - 1,
        trained_blocks=_trained_blocks(method, num_layers, num_classes),
    )
    _require_places(table, method, num_classes)
    storage = BY_PRECISION.get(run.precision, FP32)
    return RoundPlanner(
        recipe.world.scenario,
        draw_devices(recipe.world.scenario, run.seed),
        table,
        method,
        statistics.with_prompt(prompt),
        tuple(num_samples_K),
        run.local_steps,
        recipe.world.data.batching.batch_size,
        run.rounds,
        run.seed,
        "; ".join(filter(None, (architecture.note, _wide(measured, method.rounds_to_target)))),
        storage=replace(storage, adapter_bytes=4 * (2 + len(recipe.method.optimiser.remembered))),
    ).scheduled()


def _require_use(recipe: Recipe, num_classes: int) -> None:
    """ConfigError where parts of the method have no use for the data, for each other or for what is trained."""
    method = recipe.method
    before = [one.name for one in method.beside_lora if one.prompt_tokens or one.key_tokens]
    if num_classes and before:
        raise ConfigError(
            f"adapters of the kind {before[0]!r} need text that is learned token by token, and world.data has classes; "
            "leave them out of method, or set another world.data.template"
        )
    if num_classes and not method.objective.takes_classes:
        raise ConfigError(
            f"method.objective {method.objective.kind} needs text that is learned token by token, and world.data has "
            "classes; set method.objective=likelihood, or another world.data.template"
        )
    if method.lora.rank == 0 and not (method.beside_lora or num_classes):
        raise ConfigError(
            "method.lora.rank is 0 and there is no other adapter, so nothing would be trained; give a rank, a "
            "method.bottleneck, a method.soft_prompt or method.adapters"
        )
    kinds = [*(["lora"] if method.lora.rank != 0 else []), *(one.name for one in method.beside_lora)]
    kinds += ["head"] if num_classes else []
    shares = method.sharing.shared_layers != 0 and any(map(method.sharing.shares, kinds))
    for name, part in (("client_model", method.client_model), ("server_steps", method.server_steps)):
        if part is not None and not shares:
            raise ConfigError(
                f"method.{name} needs adapters that clients share, as nothing else reaches the servers' model; name "
                f"kinds in method.sharing.shared that are trained: {', '.join(kinds)}"
            )
    if num_classes and method.client_model is not None and not method.sharing.shares("head"):
        raise ConfigError(
            "method.client_model leaves the servers without a head where clients keep theirs; share the kind 'head' in "
            "method.sharing.shared"
        )
    taught = method.client_model is not None and method.client_model.distillation is not None
    if (taught or method.server_steps is not None) and not recipe.world.data.server_samples:
        raise ConfigError(
            "the server of this method trains on rows of its own and world.data.server_samples is 0; give it some"
        )


def _require_places(table: CostTable, method: Method, num_classes: int) -> None:
    """ConfigError where an adapter finds no place in the model's blocks, or none of those that are trained."""
    for adapter in method.beside_lora:
        if not table.values_L(adapter).any():
            raise ConfigError(
                f"adapters of the kind {adapter.name!r} find no place in the model's blocks, so nothing would be "
                f"trained; their maps are {', '.join(p.name for p in table.architecture.blocks[0].projections)}"
            )
    last = method.sharing.trained_layers or 0
    if (
        method.lora.rank == 0
        and not num_classes
        and not any(table.values_L(a)[-last:].any() for a in method.beside_lora)
    ):
        raise ConfigError(
            f"nothing would be trained: method.sharing.trained_layers is {last}, and no adapter stands in the last "
            f"{last} of {table.num_layers} blocks; leave it out, or set method.lora.rank"
        )


def _wide(measured: Collection[int], kept: Collection[int]) -> str:
    """Which of the ranks that were measured are left out, in words."""
    wide = [str(rank) for rank in sorted({*measured} - {*kept})]
    return f"ranks wider than {NARROWEST} left out: {', '.join(wide)}" if wide else ""


def _trained_blocks(method: Method, num_layers: int, num_classes: int) -> tuple[int, ...] | None:
    """The blocks whose adapters train; None: all."""
    if method.lora.rank == 0 and all(adapter.prompt_tokens for adapter in method.beside_lora):
        return (num_layers - 1,) if num_classes else ()
    count = method.sharing.trained_layers
    return None if count is None else tuple(range(num_layers - count, num_layers))


def statistics_of(tokens: TokenSet) -> SampleStatistics:
    """Averages over a token set's rows."""
    lengths = tokens.lengths.astype(float)
    return SampleStatistics(float(lengths.mean()), float((lengths**2).mean()), float(tokens.labelled.mean()))


@dataclass(frozen=True)
class SampleCount:
    """What planning takes from model and data: architecture, average sample, samples a client.

    `how` says how it was counted, `told` what was drawn, held out, dropped or cut of the data.
    """

    architecture: Architecture
    statistics: SampleStatistics
    num_samples_K: tuple[int, ...]
    num_classes: int  # 0 where text is learned
    how: str
    told: str = ""

    def planner(self, recipe: Recipe) -> RoundPlanner:
        """The planner of a recipe with this model and data."""
        return plan_world(recipe, self.architecture, self.statistics, self.num_samples_K, self.num_classes)


def planner_of(recipe: Recipe) -> tuple[RoundPlanner, str]:
    """The planner of a recipe without loading its model, and a sentence on how its samples were counted."""
    count = count_samples(recipe)
    return count.planner(recipe), count.how


def _tokenizer_of(folder: Path) -> Any:
    """The tokenizer of a model's folder, without torch where its file is of the usual kind."""
    if (folder / "tokenizer.json").exists():
        return PlainTokenizer(folder)
    from wavetune.models.backbone import load_tokenizer

    return load_tokenizer(folder)


def _counted(recipe: Recipe, folder: Path) -> Counted:
    """What is counted of the data with the tokenizer of a model's folder."""
    num_clients = recipe.world.scenario.population.num_clients
    data = prepare(recipe.world.data, _tokenizer_of(folder), num_clients, recipe.run.seed)
    samples_K = tuple(len(rows) for rows in data.rows_by_client)
    return statistics_of(data.train), samples_K, len(data.classes), data.told


def _estimated(recipe: Recipe) -> Counted:
    """What is counted of the data without a tokenizer."""
    num_clients, seed = recipe.world.scenario.population.num_clients, recipe.run.seed
    corpus, template = load_samples(recipe.world.data, seed), recipe.world.data.template
    examples, classes = corpus.train, () if template.writes_text else class_names(corpus)
    prompt, answer = (
        np.array([len(t) for t in texts]) / _CHARACTERS_PER_TOKEN
        for texts in zip(*((e.prompt + e.second, e.answer) for e in examples), strict=True)
    )
    domains = [e.answer if template.clients_differ_by_label else e.domain for e in examples]
    rows, _ = deal(recipe.world.data, domains, num_clients, seed)
    tokens = prompt if classes else prompt + answer
    labelled = 1.0 if classes else float(answer.mean())
    statistics = SampleStatistics(float(tokens.mean()), float((tokens**2).mean()), labelled)
    told = "; ".join((f"data: {len(examples):,} training rows of {corpus.name}", *corpus.notes))
    return statistics, tuple(len(own) for own in rows), len(classes), told


def count_samples(recipe: Recipe, say: Callable[[str], None] | None = None) -> SampleCount:
    """Read model and data as far as planning needs them: by model, data, number of clients and seed alone.

    With the model's folder at hand the counts are those that `wavetune run` plans with. Without it the architecture
    comes from the presets and four characters count as a token.
    """
    from wavetune.models.resolve import local_folder

    folder = local_folder(recipe.world.model)
    if folder is not None:
        counted = recalled_count(recipe, folder, partial(_counted, recipe, folder))
        return SampleCount(architecture_of(folder, say), *counted[:3], "counted exactly", counted[3])
    if recipe.world.model not in PRESETS:
        raise ConfigError(
            f"world.model {recipe.world.model!r} is not on this disk and no preset; "
            f"{nearest(recipe.world.model, PRESETS)} (or run it once, which fetches it)"
        )
    counted = recalled_count(recipe, None, partial(_estimated, recipe))
    how = f"estimated at {_CHARACTERS_PER_TOKEN:g} characters a token, as the model is not on this disk yet"
    return SampleCount(PRESETS[recipe.world.model], *counted[:3], how, counted[3])
