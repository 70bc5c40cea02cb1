"""TensorBoard: event files in the run's folder, for `tensorboard --logdir FOLDER/tensorboard`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class TensorBoard:
    """Scalars by step, the recipe and the files as texts."""

    key = "tensorboard"

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder / "tensorboard"))

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Write them out at once, as somebody may be looking."""
        for name, value in numbers.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def files(self, paths: list[Path]) -> None:
        """JSON as text; a page is no summary of TensorBoard's, and stays where it is."""
        for path in paths:
            if path.suffix == ".json":
                self.writer.add_text(f"files/{path.stem}", f"```json\n{path.read_text(encoding='utf-8')}\n```")

    def close(self, finished: bool) -> None:
        """Close the event file."""
        self.writer.close()


def open_tracker(name: str, folder: Path, key: str | None, parameters: Mapping[str, Any]) -> TensorBoard:
    """Further event files beside those of before, which TensorBoard shows as one run."""
    opened = TensorBoard(folder)
    if key is None:
        rows = "\n".join(f"| {field} | {json.dumps(value)} |" for field, value in parameters.items())
        opened.writer.add_text("recipe", f"| field | value |\n| --- | --- |\n{rows}")
    return opened
