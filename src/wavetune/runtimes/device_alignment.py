"""A device's own alignment: its private LoRA, its prompts and answers, its owner's mixture of two rewards.

None of these leaves the device: it reports what a step was like, and the scores of its answers to held-out prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wavetune.data_plane.messages_pb2 import Align, Aligned, Scores
from wavetune.federation.alignment import Evaluation, Rewards
from wavetune.federation.run_folder import RunFolder
from wavetune.models.backbone import load_tokenizer
from wavetune.records.fields import as_json
from wavetune.runtimes import aligning, local_round
from wavetune.runtimes.aligning import Task
from wavetune.runtimes.device import Device
from wavetune.runtimes.rewards import write_files

_METRIC = "aligned."


@dataclass
class OwnAlignment:
    """Steps of alignment of one device; reward models and what it answered are kept in its folder."""

    device: Device
    folder: Path
    say: Callable[[str], None]

    @cached_property
    def task(self) -> Task:
        """What all clients learn and are judged on."""
        return aligning.task_of(self.device.recipe, self.device.data, self._tokenizer)

    @cached_property
    def _tokenizer(self) -> Any:
        return load_tokenizer(Path(self.device.base))

    @cached_property
    def _rewards(self) -> Rewards:
        cohort = self.device.cohort
        return aligning.rewards_of(self.device.recipe, self.task, self.folder / "rewards", cohort.backbone, self.say)

    def go_on(self, align: Align, saved: Mapping[str, Tensor]) -> tuple[Aligned, dict[str, Tensor]]:
        """Have the steps done that are asked for, from a saved state; what to report, and the state to save."""
        device = self.device
        for reward in align.rewards:
            write_files(self.folder / "rewards" / Path(reward.name).name, reward.files)
            self.__dict__.pop("_rewards", None)
        cohort, clients = device.cohort, (device.client,)
        parts = device.recipe, device.data, self.task, clients, cohort.backbone, cohort.bank, self._tokenizer
        stage = aligning.stage_of(*parts, self._rewards, cohort.tokens_per_pass, saved)
        kept = {n.removeprefix(_METRIC): (float(value),) for n, value in saved.items() if n.startswith(_METRIC)}
        stage.last = aligning.Stepped(kept)
        last, found = stage.advance(align.steps, align.evaluate)
        metrics = {name: values[0] for name, values in last.metrics.items()}
        report = Aligned(steps=stage.alignment.steps_done, metrics=metrics)
        if found is not None:
            self._keep(found, align.steps)
            for told, scores in ((report.own, found.own), (report.foreign, found.foreign)):
                for name, values in scores[0].by_name.items() if scores else ():
                    told[name].CopyFrom(Scores(values=values.tolist()))
        state = {f"{_METRIC}{name}": torch.tensor(value, dtype=torch.float64) for name, value in metrics.items()}
        return report, device.state() | stage.state() | state

    def _keep(self, found: Evaluation, steps: int) -> None:
        """Write what this device answered before its first and after its last step, for its owner to read."""
        ended = 0 < steps == self.task.settings.learning.steps
        for name, due in (("alignment_before.json", not steps), ("alignment_after.json", ended)):
            if due:
                RunFolder(self.folder).write_json(name, as_json(aligning.held_out_of(found)))
        if ended:
            local_round.export(self.device, self.folder)
