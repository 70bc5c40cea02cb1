"""Data, a model with its tokenizer and rewards that are given as objects, as settings of a recipe."""

import hashlib
import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from wavetune.data.row_files import table_rows
from wavetune.errors import ConfigError, DataError
from wavetune.given import keep_folder, keep_function

REWARDS = ("helpful", "safe")


def data_name(data: Any) -> str:
    """The source that means these rows: a path or id as it is, else the name of what was given.

    Args:
        data: a `datasets.Dataset`, a frame of pandas or polars, a table of Arrow, a list of rows (dicts), lists by
            column, or a mapping of splits to any of these, such as a `DatasetDict`.
    Raises: DataError for what is no rows, or holds what no JSON file could.
    """
    if isinstance(data, str | Path):
        return str(data)
    splits = data if isinstance(data, Mapping) and not _is_columns(data) else {"train": data}
    for name, rows in splits.items():
        if isinstance(rows, str) or not (isinstance(rows, Iterable) or hasattr(rows, "to_pylist")):
            raise DataError(
                f"data {name!r} is {type(rows).__name__}; give a datasets.Dataset, a list of rows, or a dict of splits"
            )

    def write(folder: Path) -> None:
        for name, rows in splits.items():
            with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as file:
                file.writelines(_line(row, place) + "\n" for place, row in _rows(rows, str(name)))

    return keep_folder("data", write)


def _is_columns(data: Mapping[str, Any]) -> bool:
    """Whether a mapping holds a list of cells for each column."""
    lists = [list(cells) for cells in data.values() if isinstance(cells, list | tuple)]
    rows = any(isinstance(cell, Mapping) for cells in lists for cell in cells)
    return len(lists) == len(data) and len({*map(len, lists)}) == 1 and not rows


def _rows(rows: Any, split: str) -> Iterable[tuple[str, Any]]:
    if hasattr(rows, "features"):
        return table_rows(rows, f"data, {split}")
    if isinstance(rows, Mapping):
        rows = [dict(zip(rows, cells, strict=True)) for cells in zip(*rows.values(), strict=True)]
    elif hasattr(rows, "to_pylist"):  # Arrow
        rows = rows.to_pylist()
    elif hasattr(rows, "to_dicts"):  # polars
        rows = rows.to_dicts()
    elif hasattr(rows, "iloc"):  # pandas, where what is missing is NaN
        rows = rows.astype(object).where(rows.notna(), None).to_dict("records")
    return ((f"data, {split} row {number}", row) for number, row in enumerate(rows))


def _line(row: Any, place: str) -> str:
    if not isinstance(row, Mapping):
        raise DataError(f"{place} is {type(row).__name__}; give each row as a dict of its columns")
    try:
        return json.dumps(dict(row), ensure_ascii=False, allow_nan=False, default=_plain)
    except (TypeError, ValueError) as error:
        raise DataError(f"{place} holds what is neither text nor number ({error}); leave the column out") from None


def _plain(value: Any) -> Any:
    """Numbers and arrays of other libraries, and times, as JSON has them."""
    for method in ("tolist", "isoformat"):
        if hasattr(value, method):
            return getattr(value, method)()
    raise TypeError(f"{type(value).__name__} is none")


def model_name(model: Any, tokenizer: Any = None) -> str:
    """The model that is meant: a name, a folder or an id as it is, else the name of what was given.

    Args:
        model: a name, or a transformers `PreTrainedModel`.
        tokenizer: its tokenizer, where it is an object.
    Raises: ConfigError for anything else.
    """
    if isinstance(model, str | Path):
        if tokenizer is not None:
            raise ConfigError("tokenizer goes with a model given as an object; a model's folder holds its own")
        return str(model)
    if not hasattr(model, "save_pretrained") or not hasattr(model, "config"):
        raise ConfigError(f"model is {type(model).__name__}; give a name, a folder or a transformers PreTrainedModel")
    if hasattr(model, "peft_config"):
        raise ConfigError("model carries adapters of PEFT already; give its base model, or merge them first")
    if not hasattr(tokenizer, "save_pretrained"):
        raise ConfigError("a model given as an object needs its tokenizer: give tokenizer=AutoTokenizer...")
    if any(parameter.is_meta for parameter in model.parameters()):
        raise ConfigError("model has parameters without values (on the device 'meta'); load its weights first")

    def write(folder: Path) -> None:
        from wavetune.models.quiet import no_progress_bars

        with no_progress_bars():
            model.save_pretrained(folder, safe_serialization=True)
        tokenizer.save_pretrained(folder)

    return keep_folder(str(getattr(model.config, "model_type", "model")), write)


def reward_settings(rewards: Mapping[str, Callable[..., Any]]) -> list[str]:
    """Settings that put functions in the place of a recipe's rewards, by `helpful` and `safe`. Raises ConfigError."""
    for name, function in rewards.items():
        if name not in REWARDS or not callable(function):
            raise ConfigError(f"rewards has {name!r}: {function!r}; give a function for each of {', '.join(REWARDS)}")
    kept = {name: keep_function(own, hashlib.sha256(_code_of(own)).hexdigest()) for name, own in rewards.items()}
    parts = {name: {"kind": "python", "function": function} for name, function in kept.items()}
    return [f"method.alignment.{name}={json.dumps(part)}" for name, part in parts.items()]


def _code_of(function: Callable[..., Any]) -> bytes:
    """What a function's digest is taken of: its source, else its compiled code, else its name."""
    code = function if hasattr(function, "__code__") else type(function)
    try:
        return inspect.getsource(code).encode()
    except (OSError, TypeError):
        compiled = getattr(function, "__code__", None)
        return repr(function).encode() if compiled is None else compiled.co_code + repr(compiled.co_consts).encode()
