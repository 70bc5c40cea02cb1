import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import get_args, get_origin, get_type_hints

import pytest

from wavetune.errors import RunFolderError
from wavetune.records.alignment import AlignmentStep, HeldOut
from wavetune.records.fields import as_json, total
from wavetune.records.reading import read_record
from wavetune.records.rounds import Account, Energy, Judged, Lost, Measured, Phases, Refused, Round
from wavetune.records.summary import Sample, Summary
from wavetune.records.world import World

NOTHING = {Round: {"round": 3}, AlignmentStep: {"step": 3}, HeldOut: {"own": ()}}


def filled(hint, count):
    """A value of a type in which nothing is a default."""
    if is_dataclass(hint):
        return hint(**{name: filled(own, count) for name, own in get_type_hints(hint).items()})
    origin, inner = get_origin(hint), [own for own in get_args(hint) if own is not ...]
    if origin is tuple:
        return filled(inner[0], count), filled(inner[-1], count)
    if origin in (dict, Mapping):
        return {"a name": filled(inner[1], count)}
    if origin is not None:  # a union: its first kind
        return filled(inner[0], count)
    count[0] += 1
    return {bool: True, str: f"text {count[0]}", int: count[0], float: count[0] + 0.5}[hint]


@pytest.mark.parametrize("kind", [Round, AlignmentStep, HeldOut, Summary, Sample, World])
def test_a_record_is_read_as_it_was_written(kind):
    for record in (filled(kind, [0]), kind(**NOTHING.get(kind, {}))):
        document = json.loads(json.dumps(as_json(record), allow_nan=False))
        assert as_json(read_record(kind, document)) == as_json(record)


def test_what_is_not_known_is_null_and_what_a_run_does_not_have_is_left_out():
    found = as_json(Round(0, train_loss_K=(1.0, math.nan), lost=(Lost(1, "outage"),)))
    assert found["train_loss_K"] == [1.0, None]
    assert found["validation_loss"] is None
    assert found["lost"] == [{"client": 1, "why": "outage"}]
    assert not {"measured", "evaluation", "privacy", "refused"} & found.keys()
    whole = as_json(Round(0, measured=Measured(wall_s=1.0), evaluation=Judged(loss=2.0), refused=(Refused("x", "y"),)))
    assert whole["measured"]["wall_s"] == 1.0
    assert whole["evaluation"] == {"loss": 2.0, "own_loss_K": [], "foreign_loss_K": []}
    assert whole["refused"] == [{"who": "x", "why": "y"}]


def test_metrics_of_a_step_stand_beside_its_other_fields():
    step = AlignmentStep(0, {"reward": (0.5, 1.0), "kl": (0.0, math.nan)}, wall_s=2.0)
    found = as_json(step)
    assert (found["reward"], found["kl"], found["wall_s"]) == ([0.5, 1.0], [0.0, None], 2.0)
    assert read_record(AlignmentStep, found).metrics["reward"] == (0.5, 1.0)


def test_totals_add_numbers_lists_mappings_and_records_within_records():
    one = Account(delay_s=1.0, phases=Phases((1.0, 2.0), server_forward_s=3.0), bits={"labels_up": 8}, local_steps=1)
    two = Account(delay_s=2.0, phases=Phases((0.5, 0.5), server_forward_s=1.0), bits={"adapters_up": 4}, local_steps=2)
    found = total([one, two])
    assert (found.delay_s, found.local_steps) == (3.0, 3)
    assert (found.phases.client_forward_s, found.phases.server_forward_s) == ((1.5, 2.5), 4.0)
    assert found.bits == {"labels_up": 8, "adapters_up": 4}
    assert {type(getattr(found, f.name)) for f in fields(found)} >= {Phases, Energy}


@pytest.mark.parametrize("odd", [(1.0,), (), 3.0])
def test_records_whose_lists_are_not_of_one_length_have_no_total(odd):
    with pytest.raises(RunFolderError, match="do not fit together"):
        total([Phases((1.0, 2.0)), Phases(odd)])
