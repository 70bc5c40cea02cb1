"""Objectives of the local steps of federated rounds: losses of the labels of a pass of several clients.

Legend: P labels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from wavetune.federation.objectives.objective import Objective
from wavetune.guarded import Checks, pair_of

if TYPE_CHECKING:
    from torch import Tensor

    from wavetune.federation.outputs import Outputs


def _check_losses(_: Supervised, found: Any, outputs: Outputs, weight_P: Tensor) -> str:
    pair = pair_of(found)
    fits = pair is not None and [getattr(one, "shape", None) for one in pair] == [(), weight_P.shape]
    cut_off = pair is not None and fits and not pair[0].requires_grad and outputs.nll(weight_P)[0].requires_grad
    wanted = f"a sum to be differentiated, of shape [], and each label's value, {list(weight_P.shape)}"
    return "" if fits and not cut_off else wanted


class Supervised(Objective):
    """A loss of labels: of next tokens or, where rows have classes, of these."""

    checks: ClassVar[Checks] = {"losses": _check_losses}
    takes_classes: ClassVar[bool] = True  # whether it can be computed where the labels are classes
    compares: ClassVar[bool] = False  # whether it asks what the model gives out without adapters

    @property
    def passes(self) -> tuple[int, int]:
        """One pass each way, and one forward where the model without adapters is asked as well."""
        return 1 + self.compares, 1

    def losses(self, outputs: Outputs, weight_P: Tensor) -> tuple[Tensor, Tensor]:
        """The sum of the labels' losses with these weights, to be differentiated, and each one's value, `[P]`.

        A client's weights sum to 1, or to its share where a server computes the loss.
        """
        raise NotImplementedError
