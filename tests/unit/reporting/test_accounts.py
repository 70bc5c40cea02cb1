import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wavetune.records.reading import read_run
from wavetune.records.rounds import Account, Energy, Phases, Round, Straggler
from wavetune.reporting.accounts import CHANGING, PHASES, critical_s, ledger, straggler_counts, typical_round

second = st.floats(0.0, 10.0)


@st.composite
def round_accounts(draw):
    """A round of I steps and K clients whose straggler may change, charged by the delay formula."""
    steps, clients = draw(st.integers(1, 4)), draw(st.integers(1, 4))

    def table():
        return [[draw(second) for _ in range(clients)] for _ in range(steps)]

    forward, uplink, downlink, backward = table(), table(), table(), table()
    server = [(draw(second), draw(second)) for _ in range(steps)]
    upload = [draw(second) for _ in range(clients)]
    delay_s = max(upload) + sum(
        max(map(sum, zip(forward[i], uplink[i], strict=True)))
        + sum(server[i])
        + max(map(sum, zip(downlink[i], backward[i], strict=True)))
        for i in range(steps)
    )

    def over_steps(rows):
        return tuple(map(sum, zip(*rows, strict=True)))

    phases = Phases(
        over_steps(forward),
        over_steps(uplink),
        sum(one for one, _ in server),
        sum(two for _, two in server),
        over_steps(downlink),
        over_steps(backward),
        tuple(upload),
    )
    return Account(delay_s=delay_s, local_steps=steps, phases=phases)


@settings(deadline=None)
@given(round_accounts())
def test_phases_on_the_critical_path_add_up_to_the_delay(account):
    parts = critical_s(account)
    assert all(value >= 0 for value in parts.values())
    assert sum(parts.values()) == pytest.approx(account.delay_s, rel=2e-6, abs=1e-9)


def test_the_client_waited_for_is_the_one_that_is_ready_last_not_the_slowest_in_each_phase():
    phases = Phases(client_forward_s=(5.0, 1.0), uplink_s=(1.0, 6.0), server_forward_s=0.5, server_backward_s=0.5)
    parts = critical_s(Account(delay_s=8.0, phases=phases))
    assert (parts["client_forward_s"], parts["uplink_s"], parts[CHANGING]) == (1.0, 6.0, 0.0)


def test_a_synthetic_run_is_explained_without_a_remainder(make_run):
    for record in read_run(make_run()).rounds:
        assert critical_s(record.charged)[CHANGING] == 0.0


def test_every_phase_of_the_records_has_a_name():
    assert set(PHASES) == set(Phases.__dataclass_fields__)


def verdicts(records):
    return {entry.name: entry.verdict for entry in ledger(records)}


def test_equal_accounts_are_equal_in_every_row(make_run):
    found = verdicts(read_run(make_run()).rounds)
    assert set(found.values()) == {"equal"}
    assert {"all bits", "uplink activations", "downlink gradients", "delay", "uplink", "energy", "client radio"} <= set(
        found
    )
    assert "downlink activations" not in found  # nobody sent any


def change(records, column, **fields):
    """Copy of the rounds with the first one's account changed."""
    first = replace(records[0], **{column: replace(getattr(records[0], column), **fields)})
    return [first, *records[1:]]


def test_one_bit_more_is_unequal(make_run):
    records = read_run(make_run()).rounds
    bits = records[0].charged.bits
    found = verdicts(change(records, "charged", bits=bits | {"labels_up": bits["labels_up"] + 1}))
    assert {name for name, verdict in found.items() if verdict == "unequal"} == {"all bits", "uplink labels"}


def test_a_metered_bit_more_is_unequal(make_run):
    records = read_run(make_run()).rounds
    metered = {**records[0].metered_bits, "adapters_up": records[0].metered_bits["adapters_up"] + 1}
    found = verdicts([replace(records[0], metered_bits=metered), *records[1:]])
    assert found["uplink adapters"] == "unequal"
    assert found["downlink adapters"] == "equal"


@pytest.mark.parametrize(("factor", "verdict"), [(1 + 1e-13, "equal"), (1 + 1e-6, "unequal")])
def test_joules_and_seconds_are_equal_to_nine_digits(make_run, factor, verdict):
    records = read_run(make_run(rounds=1)).rounds
    charged = records[0].charged
    changed = change(records, "charged", energy_j=charged.energy_j * factor, delay_s=charged.delay_s * factor)
    found = verdicts(changed)
    assert (found["energy"], found["delay"]) == (verdict, verdict)


def test_what_only_one_side_recorded_has_no_verdict():
    charged = Account(delay_s=2.0, energy_j=3.0, energy=Energy(server_compute_j=3.0), bits={"adapters_up": 8})
    found = verdicts([Round(0, charged=charged)])
    assert set(found.values()) == {"unknown"}


def test_a_kind_absent_from_one_recorded_column_counts_as_zero_bits():
    planned, charged = Account(bits={"adapters_up": 8}), Account(bits={"adapters_up": 8, "labels_up": 4})
    found = verdicts([Round(0, planned=planned, charged=charged)])
    assert (found["uplink adapters"], found["uplink labels"]) == ("equal", "unequal")


def test_the_typical_round_has_the_median_delay():
    delays = [5.0, 1.0, math.nan, 3.0, 9.0, 2.0]
    rounds = [Round(index, charged=Account(delay_s=delay)) for index, delay in enumerate(delays)]
    shown = typical_round(rounds)
    assert shown is not None
    assert shown.charged.delay_s == 3.0
    assert typical_round([]) is None


def test_stragglers_are_counted_by_client_and_phase():
    late = [
        Straggler(1, "uplink"),
        Straggler(0, "uplink"),
        Straggler(1, "uplink"),
        Straggler(1, "client_forward"),
        None,
    ]
    rounds = [Round(index, straggler=straggler) for index, straggler in enumerate(late)]
    assert straggler_counts(rounds)[0] == ((1, "uplink"), 2)
    assert sum(times for _, times in straggler_counts(rounds)) == 4
