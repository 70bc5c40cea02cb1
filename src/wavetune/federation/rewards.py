"""What scores answers: a reward model trained here or in advance, a stock classifier, or a function of the user's.

Parts are small values that need no torch; `open` loads what they name.
Legend: N answers.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from annotated_types import Ge, Gt, Le

from wavetune.data.examples import Example, PreferenceKind
from wavetune.errors import ConfigError, DataError
from wavetune.federation.answer_scores import Reward, check_finite
from wavetune.federation.lora_targets import LoraTargets
from wavetune.foreign import imported
from wavetune.given import at_home
from wavetune.parts import Part
from wavetune.units import Array

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class RewardTraining:
    """How a reward model is trained on preference pairs (Bradley-Terry, LoRA and a scalar head on a frozen backbone).

    Every `evaluate_every` steps the loss on at most `validation_pairs` is taken; the best state is kept. Training ends
    after `steps`, after `patience` evaluations without a better loss, or at a loss of `target_loss`. `targets` are the
    linear maps that carry LoRA (None: all of an encoder's blocks, PEFT's default for a decoder).
    """

    model: str = "minilm-l6"
    rank: Annotated[int, Ge(1)] = 8
    alpha: Annotated[float, Gt(0), Le(1e9)] = 16.0
    targets: LoraTargets | None = None
    learning_rate: Annotated[float, Ge(1e-12), Le(1e30)] = 1e-3
    pairs_per_step: Annotated[int, Ge(1)] = 8
    steps: Annotated[int, Ge(1)] = 120
    evaluate_every: Annotated[int, Ge(1)] = 20
    patience: Annotated[int, Ge(1)] = 3
    target_loss: Annotated[float, Ge(0)] = 0.02
    train_pairs: Annotated[int, Ge(1)] | None = None  # drawn at random; None: all
    validation_pairs: Annotated[int, Ge(1)] = 100
    test_pairs: Annotated[int, Ge(1)] | None = None  # None: all, of the concierge 400
    max_tokens: Annotated[int, Ge(8)] = 256


class RewardPart(Part):
    """What a recipe says of how answers are scored."""

    may_be_public: ClassVar[bool] = False  # its name may be of a model that everybody has

    @property
    def asks_for(self) -> tuple[str, str]:
        """What of a machine's it opens, in words, and the name of that."""
        raise NotImplementedError

    def open(self, device: torch.device | str = "cpu", bf16: bool = False) -> Reward:
        """What scores answers, loaded."""
        raise NotImplementedError

    def trained_by(self, train: Callable[[EmbeddedReward], Path]) -> RewardPart:
        """What can be opened, once what is trained in this run has been trained into a folder."""
        return self

    def require(self, load_pairs: Callable[[PreferenceKind], object]) -> None:
        """Raise at once what opening would raise; pairs to train on are only loaded."""
        self.open()

    def try_out(self, examples: Sequence[Example], answers: Sequence[str]) -> None:
        """Raise at once what scoring would raise, where that is anybody's code."""


@dataclass(frozen=True)
class EmbeddedReward(RewardPart):
    """A reward model trained at the start of a run from the preference pairs of its own data."""

    kind = "embedded"
    may_be_public = True
    preference: PreferenceKind = "helpful"
    training: RewardTraining = field(default_factory=RewardTraining)

    @property
    def asks_for(self) -> tuple[str, str]:
        """The model that is trained."""
        return "a reward model", self.training.model

    def trained_by(self, train: Callable[[EmbeddedReward], Path]) -> RewardPart:
        """The model that was trained."""
        return TrainedReward(path=str(train(self)))

    def require(self, load_pairs: Callable[[PreferenceKind], object]) -> None:
        """Load the pairs."""
        try:
            load_pairs(self.preference)
        except DataError as error:
            raise DataError(
                f"the {self.preference} reward model is trained on pairs of world.data, and it holds none that can be "
                f"read ({error}); give pairs, a reward of another kind in method.alignment, or method.alignment=null"
            ) from error


@dataclass(frozen=True)
class TrainedReward(RewardPart):
    """A reward model that `wavetune train-reward` wrote into a folder."""

    kind = "trained"
    path: str = "rewards/helpful"

    @property
    def asks_for(self) -> tuple[str, str]:
        """The folder."""
        return "a reward model", self.path

    def open(self, device: torch.device | str = "cpu", bf16: bool = False) -> Reward:
        """The loaded model. Raises ModelError if there is none."""
        from wavetune.federation.reward_models import open_trained

        return open_trained(at_home(self.path), device, bf16)


@dataclass(frozen=True)
class HubClassifier(RewardPart):
    """A stock Hugging Face sequence classifier, from a folder or the hub.

    The score is the log-odds of `label`, or the one output of a model that has but one. `reads` says whether prompt and
    answer are given as a pair, or the answer alone.
    """

    kind = "classifier"
    may_be_public = True
    model: str = ""
    label: str | None = None
    reads: Literal["pair", "answer"] = "pair"

    @property
    def asks_for(self) -> tuple[str, str]:
        """The classifier."""
        return "a reward model", self.model

    def open(self, device: torch.device | str = "cpu", bf16: bool = False) -> Reward:
        """The loaded model, in fp32. Raises ModelError if it cannot be loaded, ConfigError if it has no such label."""
        from wavetune.federation.reward_models import open_classifier

        return open_classifier(self.model, self.label, self.reads, device)


@dataclass(frozen=True)
class PythonReward(RewardPart):
    """A function of the user's: `package.module:function` or `path/to/file.py:function`.

    It is called with a list of examples and a list of answers and returns a number for each. Its code is run as it is.
    """

    kind = "python"
    function: str = ""

    @property
    def asks_for(self) -> tuple[str, str]:
        """The module or file."""
        return "the code of a reward", self.function.rpartition(":")[0]

    def try_out(self, examples: Sequence[Example], answers: Sequence[str]) -> None:
        """Score them."""
        self.open().score(examples, answers)

    def open(self, device: torch.device | str = "cpu", bf16: bool = False) -> Reward:
        """The imported function. Raises ConfigError if there is none."""
        return FunctionReward(self.function, _function(self.function))


@dataclass(frozen=True)
class FunctionReward:
    """Scores of a function, checked."""

    name: str
    function: Callable[[Sequence[Example], Sequence[str]], Any]

    def score(self, examples: Sequence[Example], answers: Sequence[str]) -> Array:
        """What the function returns, [N].

        Raises: ConfigError if it fails or that is not one number an answer, NumericsError if a number is not finite.
        """
        try:
            found = self.function(list(examples), list(answers))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # whatever the user's code raises, SystemExit too
            raise ConfigError(f"reward {self.name} failed: {type(error).__name__}: {error}") from error
        try:
            scores = np.asarray(found, np.float64)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"reward {self.name} must return a number for each answer ({error})") from error
        if scores.shape != (len(answers),):
            raise ConfigError(
                f"reward {self.name} returned an array of shape {scores.shape} for {len(answers)} answers; return one"
                " number for each"
            )
        return check_finite(scores, f"reward {self.name}", answers)


def _function(name: str) -> Callable[..., Any]:
    found = imported(name, "the reward", "function")
    if not callable(found):
        raise ConfigError(f"the reward {name!r} is no function")
    try:
        inspect.signature(found).bind([], [])
    except TypeError as error:
        raise ConfigError(f"the reward {name!r} must take a list of examples and a list of answers: {error}") from None
    except ValueError:  # of a compiled function without a signature: its first call will tell
        pass
    return found
