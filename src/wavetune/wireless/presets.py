"""Named worlds: which values of a scenario go together.

`cell`, the default, is the plain scenario (`scenario`). `paper` is the world of the two papers as we reconstruct it:
ideal Shannon rates without a noise figure, 1.5 W a client and 5 W for all, a free way back and radiated joules.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from wavetune.errors import ConfigError, nearest
from wavetune.units import w_to_dbm
from wavetune.wireless.rate_models import Shannon
from wavetune.wireless.scenario import Scenario

Fields = Mapping[str, Any]
_PAPER: Fields = {
    "preset": "paper",
    "population": {
        "tx_power_max_dbm": float(w_to_dbm(1.5)),
        "noise_figure_db": 0.0,
        "amplifier_efficiency": 1.0,
        "circuit_power_w": 0.0,
        "receive_power_w": 0.0,
        "idle_power_w": 0.0,
    },
    "server": {"noise_figure_db": 0.0, "amplifier_efficiency": 1.0},
    "bands": {name: {"total_power_max_dbm": float(w_to_dbm(5.0))} for name in ("main", "fed")},
    "antenna_gain_db": 10.0,
    "min_coupling_loss_db": 0.0,
    "price_downlink": False,
    "rate": Shannon(),
}


def fields_of_preset(name: object) -> Mapping[str, Any]:
    """What a preset says of a scenario, field by field. Raises ConfigError with the nearest names."""
    presets = {"cell": _same_fields(Scenario(), _PAPER), "paper": _PAPER}
    if not isinstance(name, str) or name not in presets:
        raise ConfigError(f"world.scenario.preset is {name!r}; {nearest(str(name), presets)}")
    return presets[name]


def with_preset(scenario: Scenario, name: str) -> Scenario:
    """The scenario with all values of a preset; what presets say nothing of stays.

    >>> with_preset(Scenario(cell_radius_m=50.0), "paper").server.noise_figure_db
    0.0
    """
    return _with_fields(scenario, fields_of_preset(name))


def paper(scenario: Scenario | None = None) -> Scenario:
    """A scenario, by default the plain one, with the values of the two papers' world."""
    return with_preset(scenario or Scenario(), "paper")


def described(scenario: Scenario) -> str:
    """The preset that a scenario began from, in words.

    >>> described(Scenario())
    'cell, a street cell with handsets (world.scenario.preset)'
    """
    words = {"cell": "a street cell with handsets", "paper": "the ideal links of the two papers"}
    return f"{scenario.preset}, {words[scenario.preset]} (world.scenario.preset)"


def _with_fields(value: Any, fields: Mapping[str, Any]) -> Any:
    below = {
        n: _with_fields(getattr(value, n), cast(Fields, v)) if isinstance(v, Mapping) else v for n, v in fields.items()
    }
    return replace(value, **below)


def _same_fields(value: Any, fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of a value those fields that others have."""
    return {
        n: _same_fields(getattr(value, n), cast(Fields, v)) if isinstance(v, Mapping) else getattr(value, n)
        for n, v in fields.items()
    }
