"""Named worlds: which values of a scenario go together.

`paper` is the world of the two papers as we reconstruct it: ideal Shannon rates without a noise figure, 1.5 W a client,
a free way back and radiated joules. `cell` is a 5G street cell with handsets: power class 3 (23 dBm, TS 38.101-1 Table
6.2.1-1), noise figures of 5 dB at the base station and 9 dB at a device and 8 dBi of antenna (usual in 3GPP's
evaluations, TR 38.802 annex A.2), 256-QAM at most (7.4 bit/s/Hz, the last row of TS 38.214 Table 5.1.3.1-2), 2 dB to
Shannon's bound, pilots and control of TS 38.306 clause 4.1.2 (8 and 14 %), and a way back that takes time. Its 53 dB of
coupling loss at least are usual for street cells, and what its devices draw besides radiated power is an assumption of
ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from wavetune.errors import ConfigError, nearest
from wavetune.wireless.rate_models import Shannon
from wavetune.wireless.scenario import Scenario

Fields = Mapping[str, Any]
_CELL: Fields = {
    "preset": "cell",
    "population": {
        "tx_power_max_dbm": 23.0,
        "noise_figure_db": 9.0,
        "amplifier_efficiency": 0.35,
        "circuit_power_w": 0.1,
        "receive_power_w": 0.2,
        "idle_power_w": 0.05,
    },
    "server": {"noise_figure_db": 5.0, "amplifier_efficiency": 0.35},
    "bands": {"main": {"total_power_max_dbm": 50.0}, "fed": {"total_power_max_dbm": 50.0}},
    "antenna_gain_db": 8.0,
    "min_coupling_loss_db": 53.0,
    "price_downlink": True,
    "rate": Shannon(snr_gap_db=2.0, max_bit_per_s_per_hz=7.4063, uplink_overhead=0.08, downlink_overhead=0.14),
}


def fields_of_preset(name: object) -> Mapping[str, Any]:
    """What a preset says of a scenario, field by field. Raises ConfigError with the nearest names."""
    presets = {"cell": _CELL, "paper": _same_fields(Scenario(), _CELL)}
    if not isinstance(name, str) or name not in presets:
        raise ConfigError(f"world.scenario.preset is {name!r}; {nearest(str(name), presets)}")
    return presets[name]


def with_preset(scenario: Scenario, name: str) -> Scenario:
    """The scenario with all values of a preset; what presets say nothing of stays.

    >>> with_preset(Scenario(cell_radius_m=50.0), "cell").population.tx_power_max_dbm
    23.0
    """
    return _with_fields(scenario, fields_of_preset(name))


def cell(scenario: Scenario | None = None) -> Scenario:
    """A scenario, by default the plain one, as a 5G street cell with handsets."""
    return with_preset(scenario or Scenario(), "cell")


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
