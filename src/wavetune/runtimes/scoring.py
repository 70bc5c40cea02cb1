"""How good a finished run's model is at its task: its answers beside references, its loss, its classes.

The model is the stock one with the run's exported adapters, as anybody else would load it. Answers are kept beside the
scores, so that an evaluation that was interrupted goes on where it stopped. Legend: B rows of a pass, T longest row,
C classes.
"""

import json
import math
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wavetune.data.examples import Corpus, Example, begun
from wavetune.data.settings import load_samples, tokenise_part
from wavetune.data.source import kind_of
from wavetune.data.templates import TokenSet, ends_of, prompt_ids, text_template
from wavetune.errors import ConfigError, JsonError, RunFolderError
from wavetune.federation.folder_lock import locked, require_own
from wavetune.federation.run_folder import ELSEWHERE, explained, write_whole
from wavetune.given import at_home
from wavetune.json_reader import complete_lines, read_json
from wavetune.logs import LOG
from wavetune.models.backbone import load_tokenizer
from wavetune.models.generate import generate, load_for_generation
from wavetune.models.resolve import resolve_model
from wavetune.models.restore import PooledModel, prompt_tokens
from wavetune.recipe import Recipe
from wavetune.records.scores import Decoding
from wavetune.runtimes.adapters import adapter_of, recipe_of
from wavetune.runtimes.inputs import digest_of_examples, digest_of_model
from wavetune.runtimes.precision import device_of
from wavetune.seeds import stream
from wavetune.text_metrics import library_of, require, score

PERPLEXITY, ACCURACY, MACRO_F1 = "perplexity", "accuracy", "macro_f1"
OF_TEXT = ("bleu", "nist", "meteor", "rouge_l", "cider", "chrf", "exact_match", PERPLEXITY)
OF_CLASSES = (ACCURACY, MACRO_F1)
_ALL_ROWS = 10**9
_PASS_TOKENS = 2048
_TELL_EVERY_S = 10.0
_SCORES, _ANSWERS = "evaluation.json", "answers.jsonl"


@dataclass(frozen=True)
class Asked:
    """Whose model is evaluated, on what, by which metrics.

    `source` None stands for the rows that the run kept from training; `prompts` is how many are drawn at most.
    """

    source: str | None = None
    client: int | None = None
    base: bool = False
    metrics: tuple[str, ...] = ()  # none: all of the task that need nothing to be fetched
    prompts: int = 256


@dataclass(frozen=True)
class _Task:
    """A prompt and all the rows that answer it."""

    example: Example
    rows: tuple[Example, ...]


def evaluate_run(run_dir: Path, asked: Asked, decoding: Decoding, device: str = "auto") -> dict[str, Any]:
    """Scores of a run's model, as they are written into a folder under RUN_DIR/evaluations.

    Raises: RunFolderError where the run has no such adapters, ConfigError where a metric does not fit its task,
        DataError where the rows cannot be read.
    """
    recipe, adapter = recipe_of(run_dir), adapter_of(run_dir, asked.client, asked.base)
    metrics = _metrics(recipe, asked)
    corpus, part = _corpus(recipe, asked.source)
    tasks, drawn = _tasks(corpus, part, asked.prompts, decoding.seed)
    rows = [row for task in tasks for row in task.rows]
    for note in (*(corpus.notes if asked.source is None else ()), *drawn):
        LOG.info(note)
    folder = resolve_model(recipe.world.model).folder
    tokenizer = load_tokenizer(folder)
    model = load_for_generation(folder, adapter, str(device_of(device)), recipe.method.adapters)
    told: dict[str, Any] = {
        "model": recipe.world.model,
        "adapters": None if adapter is None else adapter.name,
        "data": corpus.name,
        "part": part,
        "prompts": len(tasks),
        "rows": len(rows),
        "drawn_by_seed": decoding.seed if drawn else None,
        "inputs": {
            "rows": digest_of_examples(rows),
            "model": digest_of_model(folder),
            "adapters": None if adapter is None else digest_of_model(adapter),
        },
    }
    settings = recipe.world.data
    if isinstance(model, PooledModel):
        with _place(run_dir, told) as place:
            return _finish(place, told, _class_scores(model, tokenise_part(rows, tokenizer, settings, model.labels)))
    template = text_template(settings.template, corpus.train, tokenizer)
    told["decoding"] = asdict(decoding)
    with _place(run_dir, told) as place:
        examples = [task.example for task in tasks]
        prompts = prompt_ids(examples, tokenizer, template, _room(model, decoding))
        answers = _answers(place, model, tokenizer, examples, prompts, decoding, ends_of(template, tokenizer))
        LOG.info("scoring")
        references = [[begun(row).answer for row in task.rows] for task in tasks]
        scores = {name: score(name, answers, references) for name in metrics if name != PERPLEXITY}
        if PERPLEXITY in metrics:
            scores[PERPLEXITY] = perplexity(
                model, tokenise_part(rows, tokenizer, replace(settings, template=template), ())
            )
        return _finish(place, told, {name: scores[name] for name in metrics})


def _metrics(recipe: Recipe, asked: Asked) -> tuple[str, ...]:
    """The metrics that are asked for. Raises ConfigError where one is of another task, or unknown."""
    classifies = not recipe.world.data.template.writes_text
    of_task = OF_CLASSES if classifies else OF_TEXT
    for name in asked.metrics:
        if (classifies or name in OF_CLASSES) and name not in of_task:
            written = "answers with a class" if classifies else "writes text"
            raise ConfigError(f"metric {name!r} does not fit a run that {written}; choose among {', '.join(of_task)}")
    chosen = asked.metrics or tuple(name for name in of_task if name != "meteor")
    for name in chosen:
        if name not in (PERPLEXITY, *OF_CLASSES):
            require(name)
    return chosen


def _corpus(recipe: Recipe, source: str | None) -> tuple[Corpus, str]:
    """Where rows are taken from and the part of it: test, else validation; of other data without parts, all."""
    settings = replace(recipe.world.data, validation_samples=_ALL_ROWS)
    other = source is not None and not _same_source(source, settings.source)
    if other:
        settings = replace(settings, source=str(source), train_samples=None, validation_fraction=0.0)
    corpus = load_samples(settings, recipe.run.seed)
    if corpus.test:
        return corpus, "test"
    return corpus, "all" if other and corpus.validation == corpus.train else "validation"


def _same_source(one: str, other: str) -> bool:
    if kind_of(one) == "path" and at_home(other).exists():
        return at_home(one).resolve() == at_home(other).resolve()
    return one == other


def _tasks(corpus: Corpus, part: str, most: int, seed: int) -> tuple[list[_Task], tuple[str, ...]]:
    """Distinct prompts, at most so many drawn at random, and what is to be told of that."""
    rows = corpus.test if part == "test" else corpus.validation
    same: dict[object, list[Example]] = {}
    for row in rows:
        if row.answer.strip() or row.reply is not None:
            same.setdefault((begun(row).prompt, row.turns, row.second, row.tools), []).append(row)
    tasks = [_Task(begun(own[0]), tuple(own)) for own in same.values()]
    if len(tasks) <= most:
        return tasks, ()
    chosen = sorted(stream(seed, "evaluated prompts").permutation(len(tasks))[:most].tolist())
    return [tasks[i] for i in chosen], (f"{most:,} of {len(tasks):,} distinct prompts drawn",)


def _room(model: Any, decoding: Decoding) -> int | None:
    positions = getattr(model.config, "max_position_embeddings", None)
    positions = None if positions is None else positions - prompt_tokens(model)
    if positions is not None and positions <= decoding.max_new_tokens + 1:
        raise ConfigError(
            f"--max-new-tokens is {decoding.max_new_tokens} and the model takes {positions} tokens, prompts included; "
            "ask for fewer"
        )
    return None if positions is None else positions - decoding.max_new_tokens


@contextmanager
def _place(run_dir: Path, told: dict[str, Any]) -> Generator[Path]:
    """The folder of an evaluation: that of one begun with equal settings, or a new one; held for this process."""
    require_own(run_dir)
    name = f"{Path(told['data']).name.partition('.')[0] or 'data'}-{told['adapters'] or 'base'}"
    for number in count(1):
        place = run_dir / "evaluations" / (name if number == 1 else f"{name}-{number}")
        settings = place / "settings.json"
        if not settings.exists() or _equal(settings, told):
            break
    with locked(place):
        write_whole(settings, json.dumps(told, indent=1) + "\n", ELSEWHERE)
        yield place


def _equal(settings: Path, told: dict[str, Any]) -> bool:
    try:
        return read_json(settings) == told
    except JsonError:
        return False


def _answers(
    place: Path,
    model: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    prompts: Sequence[Sequence[int]],
    decoding: Decoding,
    ends: Sequence[tuple[int, ...]],
) -> list[str]:
    """The model's answers, white space around them apart; those that an interrupted evaluation left are not made
    again.
    """
    path = place / _ANSWERS
    known = {line["prompt_index"]: str(line["answer"]) for line in _lines(path)}
    told = time.monotonic()
    for batch in _batches([len(prompt) for prompt in prompts], decoding.batch_size):
        if known.keys() >= set(batch):
            continue
        own = [prompts[i] for i in batch]
        texts = generate(
            model, tokenizer, own, decoding.max_new_tokens, decoding.temperature, decoding.seed + batch[0], ends,
            decoding.beams,
        )  # fmt: skip
        answers = {i: text.strip() for i, text in zip(batch, texts, strict=True)}
        with explained(path), path.open("a", encoding="utf-8") as file:
            for i, answer in answers.items():
                line = {"prompt_index": i, "prompt": examples[i].prompt, "answer": answer}
                file.write(json.dumps(line) + "\n")
        known |= answers
        if time.monotonic() - told > _TELL_EVERY_S:
            told = time.monotonic()
            LOG.info(f"{len(known):,} of {len(prompts):,} prompts answered")
    return [known[i] for i in range(len(prompts))]


def _lines(path: Path) -> list[dict[str, Any]]:
    again = "remove the file to answer all prompts again"
    try:
        lines = complete_lines(path) if path.exists() else []
    except JsonError as error:
        raise RunFolderError(f"{error}; {again}") from error
    if not all(isinstance(line, dict) and {"prompt_index", "answer"} <= line.keys() for line in lines):
        raise RunFolderError(f"{path} has lines that are no answers; {again}")
    return lines


def _batches(lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Indices of rows of similar length, so many at a time, the longest first."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    return (order[start : start + size] for start in range(0, len(order), size))


@torch.no_grad()
def perplexity(model: Any, rows: TokenSet) -> float | None:
    """Exponential of the mean loss over all labelled tokens."""
    nll, labelled = 0.0, 0
    for batch in _passes(rows):
        ids_BT, mask_BT = _padded([rows.row(i) for i in batch], model.device)
        wanted_BT = _padded([rows.labels_of(i) for i in batch], model.device)[0].bool()[:, 1:]
        logits_BTC = model(input_ids=ids_BT, attention_mask=mask_BT).logits
        logits_BTC = logits_BTC[:, -ids_BT.shape[1] : -1]  # a soft prompt has some, too
        losses = F.cross_entropy(logits_BTC[wanted_BT].float(), ids_BT[:, 1:][wanted_BT], reduction="sum")
        nll, labelled = nll + float(losses), labelled + int(wanted_BT.sum())
    mean = nll / labelled if labelled else math.inf
    return math.exp(mean) if mean < 700 else None


@torch.no_grad()
def _class_scores(model: PooledModel, rows: TokenSet) -> dict[str, float | None]:
    """Share of right classes, and the mean over the classes that occur of their F1; both in percent."""
    assert rows.classes is not None
    found = np.empty_like(rows.classes)
    for batch in _passes(rows):
        ids_BT, mask_BT = _padded([rows.row(i) for i in batch], model.weight.device)
        found[batch] = model(ids_BT, mask_BT).argmax(-1).cpu().numpy()
    f1 = [
        2 * np.sum((found == c) & (rows.classes == c)) / np.sum((found == c).astype(int) + (rows.classes == c))
        for c in np.unique(rows.classes)
    ]
    return {ACCURACY: 100 * float(np.mean(found == rows.classes)), MACRO_F1: 100 * float(np.mean(f1))}


def _passes(rows: TokenSet) -> Iterator[list[int]]:
    longest = int(np.diff(rows.offsets).max())
    return _batches(np.diff(rows.offsets).tolist(), max(1, _PASS_TOKENS // longest))


def _padded(rows: Sequence[Any], device: Any) -> tuple[Tensor, Tensor]:
    """Rows padded at their ends to `[B, T]`, and where they are not padding."""
    tensors = [torch.as_tensor(np.asarray(row), dtype=torch.long) for row in rows]
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in tensors], batch_first=True)
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True).to(device), mask.to(device)


def _finish(place: Path, told: dict[str, Any], scores: dict[str, float | None]) -> dict[str, Any]:
    """Write scores beside those that the same answers got before."""
    with suppress(JsonError, KeyError, TypeError):
        scores = read_json(place / _SCORES)["scores"] | scores
    libraries = {name: found for name in scores if (found := library_of(name)) is not None}
    result = told | {"scores": scores, "libraries": libraries}
    write_whole(place / _SCORES, json.dumps(result, indent=1) + "\n", ELSEWHERE)
    return result | {"folder": str(place)}
