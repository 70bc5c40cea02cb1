"""The rounds of a run, and its steps of alignment, as TensorBoard scalars."""

from pathlib import Path

from wavetune.errors import ConfigError
from wavetune.records.reading import read_run
from wavetune.records.scalars import of_alignment, of_round


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
        found = [(one.round, of_round(one)) for one in run.rounds]
        found += [(one.step, of_alignment(one)) for one in run.alignment]
        for index, scalars in found:
            for name, value in scalars.items():
                writer.add_scalar(name, value, index + 1)
