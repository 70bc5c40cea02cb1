"""The rounds of a run, and its steps of alignment, as TensorBoard scalars."""

from __future__ import annotations

import math
from pathlib import Path

from wavetune.errors import ConfigError
from wavetune.estimate import finite_mean
from wavetune.records.alignment import AlignmentStep
from wavetune.records.reading import read_run
from wavetune.records.rounds import Round

_OF_ALIGNMENT = ("reward", "helpful", "safe", "true_helpful", "true_safe", "kl")


def write_tensorboard(run_dir: Path, log_dir: Path) -> None:
    """Write losses, delay, energy and bits of each round; the step is the number of finished rounds.

    Of alignment, whose steps are counted apart, means over the clients: of training prompts and of held-out ones.

    Raises: RunFolderError if the folder holds no run records; ConfigError if TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError('TensorBoard is not installed: pip install "wavetune[tensorboard]"') from error
    run = read_run(run_dir)
    with SummaryWriter(str(log_dir)) as writer:
        found = [(one.round, _of_round(one)) for one in run.rounds]
        found += [(one.step, _of_alignment(one)) for one in run.alignment]
        for index, scalars in found:
            for name, value in scalars.items():
                if math.isfinite(value):
                    writer.add_scalar(name, value, index + 1)


def _of_round(record: Round) -> dict[str, float]:
    return {
        "loss/training": record.train_loss,
        "loss/validation": record.validation_loss,
        "charged/delay_s": record.charged.delay_s,
        "charged/energy_j": record.charged.energy_j,
        **{f"bits/{kind}": amount for kind, amount in record.charged.bits.items()},
    }


def _of_alignment(record: AlignmentStep) -> dict[str, float]:
    return {
        **{f"alignment/{name}": finite_mean(record.metrics.get(name, ())) for name in _OF_ALIGNMENT},
        **{f"held_out/{name.removesuffix('_K')}": finite_mean(scores) for name, scores in record.evaluation.items()},
        "alignment/delay_s": record.charged.delay_s,
        "alignment/energy_j": record.charged.energy_j,
    }
