"""Ratios from which on NR's coding schemes are used, against the block error rates that Sionna has tabulated."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from wavetune.wireless.rate_models import MCS_TABLES, NrMcs

LARGEST = 2.0  # dB between the points of Sionna's tables, of which there are few


def snr_db_at(bler, snr_db, target):
    """Ratio at which a falling curve reaches a target, between its points by its logarithm; None if it does not."""
    log = np.log10(np.maximum(bler, 1e-6))
    for i in np.flatnonzero((log[:-1] >= np.log10(target)) & (log[1:] < np.log10(target))):
        share = (log[i] - np.log10(target)) / (log[i] - log[i + 1])
        return float(snr_db[i] + share * (snr_db[i + 1] - snr_db[i]))
    return None


@pytest.mark.parametrize(("table", "file"), [("64qam", "PDSCH_table1"), ("256qam", "PDSCH_table2")])
def test_a_tenth_of_the_blocks_fails_where_the_schemes_begin(table, file):
    spec = importlib.util.find_spec("sionna")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("Sionna is not installed")
    path = Path(spec.submodule_search_locations[0]) / "sys" / "bler_tables" / f"{file}.json"
    curves = json.loads(path.read_text())["category"]["1"]["index"][file[-1]]["MCS"]
    model, found = NrMcs(table), []
    order = np.argsort([bits * rate for bits, rate in MCS_TABLES[table]], kind="stable")
    for place, mcs in enumerate(order.tolist()):
        curve = curves.get(str(mcs))
        snr_db = curve and snr_db_at(np.array(curve["CBS"]["2000"]["BLER"]), np.array(curve["SNR_db"]), 0.1)
        if snr_db is not None:
            found.append(model.block_snr_db_I()[place] - snr_db)
    assert len(found) > 20
    assert np.max(np.abs(found)) < 1.0
    assert abs(np.mean(found)) < 0.3
