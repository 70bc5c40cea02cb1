"""The rounds of a run as TensorBoard scalars."""

from __future__ import annotations

import math
from pathlib import Path

from wavetune.errors import ConfigError
from wavetune.reporting.records import read_run


def write_tensorboard(run_dir: Path, log_dir: Path) -> None:
    """Write losses, delay, energy and bits of each round; the step is the number of finished rounds.

    Raises: RunFolderError if the folder holds no run records; ConfigError if TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError('TensorBoard is not installed: pip install "wavetune[tensorboard]"') from error
    run = read_run(run_dir)
    with SummaryWriter(str(log_dir)) as writer:
        for record in run.rounds:
            scalars = {
                "loss/training": record.train_loss,
                "loss/validation": record.validation_loss,
                "charged/delay_s": record.charged.delay_s,
                "charged/energy_j": record.charged.energy_j,
                **{f"bits/{kind}": amount for kind, amount in record.charged.bits.items()},
            }
            for name, value in scalars.items():
                if math.isfinite(value):
                    writer.add_scalar(name, value, record.round + 1)
