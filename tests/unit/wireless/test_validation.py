import math
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import pytest
from annotated_types import Ge, Gt, Le, Lt

from wavetune.errors import ConfigError
from wavetune.wireless.validation import check_fields, check_range


@dataclass(frozen=True)
class Inner:
    size: int = 1


@dataclass(frozen=True)
class Other:
    size: int = 1


@dataclass(frozen=True)
class Part:
    kind: Literal["part"] = "part"
    above: Annotated[float, Gt(0)] = 1.0
    between: Annotated[float, Ge(-1), Lt(2)] = 0.0
    count: Annotated[int, Ge(1), Le(9)] = 1
    flag: bool = False
    name: str = "a"
    maybe: Annotated[float, Gt(0)] | None = None
    pair: tuple[float, Annotated[float, Gt(0)]] = (0.0, 1.0)
    many: tuple[int, ...] = ()
    choice: Inner | Other = Inner()

    def __post_init__(self):
        check_fields(self)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"above": 3, "between": -1, "count": 9, "flag": True, "maybe": 1e-30, "many": (1, 2, 3)},
        {"above": np.float64(2.0), "count": np.int64(3), "choice": Other(), "pair": (-5, 1)},
    ],
)
def test_allowed_values_pass(values):
    Part(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "prat"}, "Part.kind is 'prat': did you mean 'part'"),
        ({"above": 0.0}, "Part.above is 0.0 but must be greater than 0"),
        ({"above": math.nan}, "Part.above is nan but must be a finite number"),
        ({"above": math.inf}, "Part.above is inf but must be a finite number"),
        ({"above": "1"}, "Part.above is '1' but must be a finite number"),
        ({"above": True}, "Part.above is True but must be a finite number"),
        ({"between": -1.5}, "Part.between is -1.5 but must be at least -1"),
        ({"between": 2.0}, "Part.between is 2.0 but must be less than 2"),
        ({"count": 1.0}, "Part.count is 1.0 but must be a whole number"),
        ({"count": True}, "Part.count is True but must be a whole number"),
        ({"count": 10}, "Part.count is 10 but must be at most 9"),
        ({"flag": 1}, "Part.flag is 1 but must be true or false"),
        ({"name": 3}, "Part.name is 3 but must be text"),
        ({"maybe": -1.0}, "Part.maybe is -1.0 but must be greater than 0"),
        ({"pair": (0.0, -1.0)}, r"Part.pair\[1\] is -1.0 but must be greater than 0"),
        ({"pair": (0.0,)}, r"Part.pair is \(0.0,\) but must be a tuple of 2 values"),
        ({"many": (1, 2.5)}, r"Part.many\[1\] is 2.5 but must be a whole number"),
        ({"many": [1]}, r"Part.many is \[1\] but must be a tuple"),
        ({"choice": None}, "Part.choice is None but must be one of Inner, Other"),
    ],
)
def test_a_refused_value_is_named_with_what_is_allowed(values, message):
    with pytest.raises(ConfigError, match=message):
        Part(**values)


def test_range_names_the_first_value_outside():
    check_range("d_m", np.array([1.0, 5.0]), 1.0, 5.0, "the table")
    check_range("d_m", 5.0 * (1 + 1e-12), 1.0, 5.0, "the table")
    for values in ([2.0, 6.0], [6.0, 0.5]):
        with pytest.raises(ConfigError, match=r"d_m is 6 but must be in \[1, 5\] \(the table\)"):
            check_range("d_m", values, 1.0, 5.0, "the table")
    for value in (math.nan, math.inf, -math.inf):
        with pytest.raises(ConfigError, match=f"d_m is {value}"):
            check_range("d_m", value, 1.0, 5.0, "the table")
