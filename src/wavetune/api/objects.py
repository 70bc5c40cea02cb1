"""A model with its tokenizer and rewards that are given as objects, as settings of a recipe."""

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from wavetune.errors import ConfigError
from wavetune.given import keep_folder, keep_function

REWARDS = ("helpful", "safe")


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
