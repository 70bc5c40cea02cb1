"""What a run began with: its recipe, digests of its data, model and traces; a run is not continued with others."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wavetune.data.examples import Example, PreferencePair
from wavetune.data.settings import PreparedData
from wavetune.data.templates import Template
from wavetune.errors import RunFolderError
from wavetune.federation.run_folder import RunFolder
from wavetune.part_values import values_of
from wavetune.recipe import Recipe
from wavetune.runtimes.saved import Inputs

INPUTS = "inputs.json"
SETTLED = ("local_steps", "precision", "seed", "samples", "sample_tokens")  # of a recipe's `run`
_ENDS = 2**16  # bytes at either end of a file with weights that are looked at


def keep_inputs(folder: RunFolder, recipe: Recipe, data: PreparedData, model: Path) -> None:
    """Note what a new run begins with; of one that is continued, check that it is still the same.

    Args:
        folder: of the run.
        recipe: that is run.
        data: what it trains on.
        model: the model's folder.

    Raises: RunFolderError if a value of the recipe that its results depend on, data, model or channel have changed.
    """
    channel = recipe.world.scenario.channel.inputs()
    now: dict[str, Any] = {
        "recipe": settled(recipe),
        "data": {
            "name": data.corpus.name,
            "training": digest_of_examples(data.corpus.train),
            "validation": digest_of_examples(data.corpus.validation),
        },
        "model": digest_of_model(model),
        **({"channel": dict(channel)} if channel else {}),
    }
    begun = folder.read_json(INPUTS, Inputs)
    if begun is None:
        folder.write_json(INPUTS, now)
        return
    again = "put back what was there, or start a new run with another --out"
    if path := differs(begun.get("recipe", {}), now["recipe"], recipe):
        raise RunFolderError(f"{path} of recipe.json has changed since the run in {folder.path} began: {again}")
    if begun["model"] != now["model"]:
        raise RunFolderError(f"the model in {model} has changed since the run in {folder.path} began: {again}")
    if begun.get("channel") != now.get("channel"):
        raise RunFolderError(
            f"the channel in {', '.join(channel)} has changed since the run in {folder.path} began: {again}"
        )
    for part in ("training", "validation"):
        difference = changed(begun["data"][part], now["data"][part])
        if difference:
            raise RunFolderError(
                f"the {part} rows of {data.corpus.name} have changed since the run in {folder.path} began "
                f"({difference}): {again}"
            )


def settled(recipe: Recipe) -> dict[str, Any]:
    """The values that results depend on: not where model and data lie, nor how long to train and where to compute."""
    values = json.loads(json.dumps(recipe.to_dict()))
    del values["world"]["model"], values["world"]["data"]["source"]
    return {**values, "run": {name: values["run"][name] for name in SETTLED}}


def said(template: Template) -> dict[str, Any]:
    """What a template says of itself, without what it leaves to the training rows, the tokenizer and the day."""
    values = values_of(template).items()
    return {name: v for name, v in values if v is not None and not (name == "kind" and template.chooses)}


def differs(before: Any, now: Any, part: object, path: str = "") -> str:
    """Path of the first value of a part that differs, of those that both have; empty if there is none.

    Which fields there are is a matter of the version; a mapping in one of them is one value.
    """
    if isinstance(before, dict) and isinstance(now, dict) and not isinstance(part, Mapping):
        both = (
            differs(value, now[key], getattr(part, key, None), f"{path}.{key}")
            for key, value in before.items()
            if key in now
        )
        return next(filter(None, both), "")
    return "" if before == now else path.removeprefix(".")


def digest_of_examples(examples: Iterable[Example]) -> dict[str, Any]:
    """Number of examples, and a digest of all that they say."""
    return digest_of_rows(_said(example) for example in examples)


def digest_of_pairs(pairs: Sequence[PreferencePair]) -> dict[str, Any]:
    """Number of pairs, and a digest of all that they say."""
    return digest_of_rows([pair.prompt, pair.chosen, pair.rejected, pair.domain] for pair in pairs)


def digest_of_rows(rows: Iterable[list[str]]) -> dict[str, Any]:
    """Number of rows, and a digest of their texts in order."""
    digest, count = hashlib.sha256(), 0
    for row in rows:
        digest.update(json.dumps(row).encode())
        count += 1
    return {"rows": count, "sha256": digest.hexdigest()}


def changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """How two digests of rows differ, in words; empty if they do not."""
    if before == now:
        return ""
    one, other = before.get("rows"), now["rows"]
    return f"{one} rows then, {other} now" if one != other else f"the same number of rows, {one}, with other contents"


def digest_of_model(folder: Path) -> dict[str, str]:
    """A digest of each file of a model; of weights, of their size and both ends."""
    names = ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
    files = (*(folder / name for name in names), *sorted(folder.glob("*.safetensors")))
    return {path.name: _digest(path) for path in files if path.is_file()}


def _digest(path: Path) -> str:
    size = path.stat().st_size
    with path.open("rb") as file:
        if path.suffix != ".safetensors":
            return hashlib.sha256(file.read()).hexdigest()
        start = file.read(_ENDS)
        file.seek(max(0, size - _ENDS))
        return hashlib.sha256(start + file.read() + str(size).encode()).hexdigest()


def _said(example: Example) -> list[str]:
    turns = [text for turn in example.dialogue for text in (turn.role, turn.content, turn.more)]
    return [example.prompt, example.answer, example.second, example.domain, *turns]
