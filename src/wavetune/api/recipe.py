"""A recipe by its name or file, with what is changed of it."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from wavetune import recipes
from wavetune.api.objects import model_name, reward_settings
from wavetune.api.recipe_file import ENDINGS, read_base
from wavetune.data.given_rows import data_name
from wavetune.errors import ConfigError, JsonError
from wavetune.federation.rank_choice import Rounds
from wavetune.given import is_given
from wavetune.json_reader import read_json
from wavetune.recipe import Recipe, with_settings


def recipe(
    name: str | Path,
    *settings: str,
    data: Any = None,
    model: Any = None,
    tokenizer: Any = None,
    rewards: Mapping[str, Callable[..., Any]] | None = None,
    seed: int | None = None,
    device: Literal["auto", "cpu", "cuda"] | None = None,
    rank_table: str | Path | None = None,
    codec_table: str | Path | None = None,
) -> Recipe:
    """A recipe by its name or file, with what is changed of it.

    Of data of one's own all rows are trained on, unless a setting or the recipe's file says how many. With a tiny model
    of random weights, a recipe that is long for what that can learn begins from its short form.

    >>> chosen = recipe("sflllm", "run.rounds=2", model="tiny", seed=1)
    >>> chosen.run.rounds, chosen.run.seed, chosen.world.model
    (2, 1, 'tiny')

    Args:
        name: a name of `wavetune recipes`, `module:function` of your own, or a JSON, YAML or TOML file.
        settings: `path=value`, each as of `--set`.
        data: a folder, a file or a Hugging Face id, or the rows: a `datasets.Dataset`, a list of dicts, or a mapping of
            splits (`train`, `validation`, `test`) to either.
        model: a name, a folder or a Hugging Face id, or a transformers `PreTrainedModel` with its `tokenizer`.
        tokenizer: of a model that is an object.
        rewards: functions that score answers, `helpful` and `safe`, for a recipe that aligns.
        seed: of every random stream.
        device: where to compute.
        rank_table: file with rounds to the target by rank, of `wavetune measure-ranks`.
        codec_table: file with codecs to choose among, of `wavetune measure-codecs`.

    Raises:
        ConfigError: no such recipe or field, or a value that it does not take; DataError, ModelError of objects.
    """
    name = str(name)
    require_readable(name)
    base, begun, written = read_base(name)
    source = None if data is None else data_name(data)
    held = None if model is None and tokenizer is None else model_name(model, tokenizer)
    given = {"world.data.source": source, "world.model": held, "run.seed": seed, "run.device": device}
    first = list(recipes.short_form(base)) if held is not None and _is_try_out(held) else []
    if base and _own_data((*written, *settings), source):
        first.append("world.data.train_samples=null")
    assignments = [f"{path}={json.dumps(value)}" for path, value in given.items() if value is not None]
    chosen = with_settings(
        begun, [*first, *written, *settings, *assignments, *reward_settings(rewards or {})], settings
    )
    if rank_table is not None:
        chosen = replace(chosen, method=replace(chosen.method, rounds_to_target=_read_rank_table(Path(rank_table))))
    return chosen if codec_table is None else _with_codecs(chosen, Path(codec_table))


def as_recipe(given: Recipe | str | Path) -> Recipe:
    """The recipe itself, or that of a name or file."""
    return given if isinstance(given, Recipe) else recipe(given)


def require_readable(name: str) -> None:
    """ConfigError unless this can be a recipe's name, or its file, before anything is imported to read it."""
    if recipes.is_name(name):
        return
    if Path(name).is_dir():
        raise ConfigError(f"{name} is a folder, not a recipe; name a JSON file, such as a run folder's recipe.json")
    if name.endswith(ENDINGS):
        return
    if Path(name).exists():
        raise ConfigError(f"{name} does not end in {', '.join(ENDINGS)}: recipes are read from JSON, YAML and TOML")
    recipes.require_known(name)


def _with_codecs(chosen: Recipe, table: Path) -> Recipe:
    from wavetune.federation.codec_choice import read_candidates

    method = replace(chosen.method, choose_codecs=True, codec_candidates=read_candidates(table))
    return replace(chosen, method=method)


def _is_try_out(model: str) -> bool:
    """Whether a model is one of the tiny ones that know no language."""
    from wavetune.models.resolve import BUNDLED
    from wavetune.models.tiny import NOTE

    return model in BUNDLED and BUNDLED[model].note == NOTE


def _own_data(settings: tuple[str, ...], data: str | None) -> bool:
    """Whether the settings, or else `data`, name data that is not built in."""
    from wavetune.data.source import EMBEDDED

    named = [
        text for path, equals, text in (s.partition("=") for s in settings) if path == "world.data.source" and equals
    ]
    sources = [*named, *([] if data is None else [data])]
    return bool(sources) and (is_given(sources[-1]) or sources[-1].strip().strip('"') not in EMBEDDED)


def _read_rank_table(path: Path) -> dict[int, Rounds]:
    """Rounds of every seed at each rank, or one number a rank in a table that has no more."""
    try:
        table = read_json(path)
        seeds = table.get("rounds_to_target_by_seed", table["rounds_to_target"])
        return {int(r): tuple(map(float, n)) if isinstance(n, list) else float(n) for r, n in seeds.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = error.reason if isinstance(error, JsonError) else error
        raise ConfigError(
            f"cannot read a rank table from {path} ({reason}); `wavetune measure-ranks` writes one"
        ) from None
