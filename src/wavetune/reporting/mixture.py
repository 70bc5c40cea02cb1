"""Two rewards as one number: in units that both share, as their own units are unlike.

Legend: K clients.
"""

from collections.abc import Mapping, Sequence

from wavetune.estimate import finite_mean


def mixed_reward(
    scores: Mapping[str, Sequence[float | None]], lambda_K: Sequence[float], scale: Mapping[str, float]
) -> float:
    """Mean over clients of lambda helpful + (1 - lambda) safe, each in units of its scale; NaN where it is not known.

    Args:
        scores: `helpful_K` and `safe_K`, means of each client in the rewards' own units.
        lambda_K: each client's weight of helpfulness.
        scale: standard deviation of each reward, that of the same answers for all that are compared.

    >>> mixed_reward({"helpful_K": [4.0], "safe_K": [0.1]}, [0.5], {"helpful": 2.0, "safe": 0.1})
    1.5
    """
    names = ("helpful", "safe")
    if not all(name in scale for name in names):
        return float("nan")
    helps, guards = (scale[name] or 1.0 for name in names)  # a reward without any spread keeps its own unit
    columns = (scores.get("helpful_K", ()), scores.get("safe_K", ()))
    return finite_mean(
        weight * helpful / helps + (1 - weight) * safe / guards
        for weight, helpful, safe in zip(lambda_K, *columns, strict=False)
        if helpful is not None and safe is not None
    )
