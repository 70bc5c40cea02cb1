"""A device's own alignment: its private LoRA, its prompts and answers, its owner's mixture of two rewards.

None of these leaves the device: it reports what a step was like, and the scores of its answers to held-out prompts.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import Tensor

from wavetune.data_plane.messages_pb2 import Align, Aligned, RewardModel
from wavetune.data_plane.refusal import quoted
from wavetune.errors import ConfigError
from wavetune.federation.alignment import Rewards
from wavetune.federation.run_folder import RunFolder
from wavetune.json_reader import parse
from wavetune.models.backbone import load_tokenizer
from wavetune.models.reward import ABOUT
from wavetune.records.alignment import HeldOut
from wavetune.runtimes import local_round
from wavetune.runtimes.alignment import report
from wavetune.runtimes.alignment.held_out import AFTER, BEFORE, keep
from wavetune.runtimes.alignment.here import work_of
from wavetune.runtimes.alignment.task import Task, rewards_of, share_of, task_of, trainings
from wavetune.runtimes.device_half import Device
from wavetune.runtimes.rewards import Say, write_files


@dataclass
class OwnAlignment:
    """Steps of alignment of one device; reward models and what it answered are kept in its folder."""

    device: Device
    folder: Path
    say: Say

    @cached_property
    def task(self) -> Task:
        """What all clients learn and are judged on."""
        return task_of(self.device.recipe, self.device.data, load_tokenizer(Path(self.device.base)))

    @cached_property
    def _rewards(self) -> Rewards:
        return rewards_of(self.device.recipe, self.folder / "rewards", self.device.cohort.backbone.device, self.say)

    def go_on(self, align: Align, saved: Mapping[str, Tensor]) -> tuple[Aligned, dict[str, Tensor]]:
        """Have the steps done that are asked for, from a saved state; what to report, and the state to save."""
        device = self.device
        for reward in align.rewards:
            files = {**reward.files, ABOUT: self._about(reward)}
            write_files(self.folder / "rewards" / reward.name, files)
            self.__dict__.pop("_rewards", None)
        share = share_of(self.task, (device.client,))
        work = work_of(share, device.recipe, device.cohort, self.task.tokenizer, self._rewards, saved)
        step = work.advance(align.steps, align.evaluate)
        if step.evaluation is not None:
            self._keep(step.evaluation, align.steps)
        return report.write(step, work.alignment.steps_done), device.state() | work.state()

    def _about(self, reward: RewardModel) -> bytes:
        """What the servers say of a reward model that they trained, on the base model that the recipe names.

        Raises ConfigError if the recipe has them train none of that name, JsonError.
        """
        asked = trainings(self.device.recipe)
        if reward.name not in asked:
            raise ConfigError(
                f"the servers sent a reward model {quoted(reward.name)!r}, which the recipe does not train"
            )
        about, training = parse(reward.files[ABOUT].decode(errors="replace")), asked[reward.name]
        if not isinstance(about, dict) or about.get("max_tokens") not in range(1, training.max_tokens + 1):
            raise ConfigError(f"the servers sent a reward model whose {ABOUT} is not of the recipe's training")
        own = {name: getattr(training, name) for name in ("model", "rank", "alpha")}
        return json.dumps({**about, **own, "targets": training.targets or []}).encode()

    def _keep(self, found: HeldOut, steps: int) -> None:
        """Write what this device answered before its first and after its last step, for its owner to read."""
        ended = 0 < steps == self.task.settings.learning.steps
        if not steps or ended:
            keep(RunFolder(self.folder), AFTER if ended else BEFORE, found)
        if ended:
            local_round.export(self.device, self.folder)
