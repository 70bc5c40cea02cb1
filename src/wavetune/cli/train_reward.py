"""`wavetune train-reward`: a reward model from preference pairs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from wavetune.api.folders import free_folder
from wavetune.api.preflight import check
from wavetune.cli.json_output import result
from wavetune.cli.options import DeviceName, Model, Seed
from wavetune.cli.read_recipe import require_unchanged
from wavetune.console import echo
from wavetune.errors import ConfigError
from wavetune.json_reader import read_json
from wavetune.logs import LOG


def train_reward(
    kind: Annotated[str | None, typer.Option(help="Which preference: helpful or harmless.")] = None,
    data: Annotated[
        str | None, typer.Option(help="Pairs: a folder or file with JSON lines; concierge by default.")
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD=NAME", help="Column of the data that holds prompt, chosen or rejected; repeatable."
        ),
    ] = None,
    model: Model = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write; rewards/KIND by default.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the training in --out to the same end.")] = False,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps at most.")] = None,
    pairs_per_step: Annotated[int | None, typer.Option(min=1, help="Pairs of a step.")] = None,
    train_pairs: Annotated[int | None, typer.Option(min=1, help="Pairs to train on; all by default.")] = None,
    rank: Annotated[int | None, typer.Option(min=1, help="Rank of the LoRA.")] = None,
    learning_rate: Annotated[float | None, typer.Option(min=1e-9, help="Largest learning rate.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=8, help="Longest prompt with its answer.")] = None,
    seed: Seed = None,
    device: DeviceName = None,
) -> None:
    """Train a reward model on preference pairs and measure it on held-out ones."""
    training = {"model": model, "steps": steps, "pairs_per_step": pairs_per_step, "train_pairs": train_pairs,
                "rank": rank, "learning_rate": learning_rate, "max_tokens": max_tokens}  # fmt: skip
    changed = {name: value for name, value in training.items() if value is not None}
    if resume:
        options = {f"--{name.replace('_', '-')}": value for name, value in training.items()}
        require_unchanged(
            {**options, "--kind": kind, "--data": data, "--column": column, "--seed": seed},
            "a training continues with the settings in its folder",
        )
    if resume and out is None:
        raise ConfigError("--resume needs --out, the folder of the training to continue")
    if resume and out is not None and (out / "reward.json").exists():
        echo(f"{out} holds a finished reward model already")
        _tell(read_json(out / "reward.json"), out)
        return
    where = "auto" if device is None else device.value
    check(source=data, model=model, device=where, out=out)
    LOG.info("loading PyTorch and transformers")
    from wavetune.runtimes.train_reward import begin_training, continue_training
    from wavetune.terminal import RewardDisplay

    folder = out or free_folder(str(kind), Path("rewards"))
    try:
        with RewardDisplay() as display:
            if resume:
                about = continue_training(folder, display, where)
            else:
                source, columns = data or "concierge", _columns(column)
                about = begin_training(kind, source, changed, folder, display, seed or 0, where, columns)
    except KeyboardInterrupt:
        saved = (folder / "training.json").exists()
        go_on = f"; continue with: wavetune train-reward --resume --out {folder}" if saved else ""
        LOG.warning(f"stopped{go_on}")
        raise
    result(dict(about))
    _tell(about, folder)


def _tell(about: Mapping[str, Any], folder: Path) -> None:
    low, high = about["accuracy_interval_95"]
    pairs, part = about["data"]["test_pairs"], about["tested_on"]
    lines = (
        f"{about['kind']} reward model: {about['accuracy']:.1%} of {pairs} {part} pairs right "
        f"(95% interval {low:.1%} to {high:.1%}), best of {about['steps']} steps at step {about['best_step']}, "
        f"{about['seconds']:.0f} s, seed {about['seed']}",
        f"Model: {about['model']} ({about['model_note']})",
        f"wrote {folder}: reward.json, head.safetensors and adapter (PEFT format)",
    )
    for line in lines:
        echo(line)


def _columns(options: list[str] | None) -> dict[str, str]:
    parts = [(option, *option.partition("=")) for option in options or []]
    for option, field, equals, name in parts:
        if not (field and equals and name):
            raise ConfigError(f"--column takes FIELD=NAME, such as chosen=better, not {option!r}")
    return {field: name for _, field, _, name in parts}
