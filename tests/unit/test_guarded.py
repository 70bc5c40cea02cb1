"""Other people's parts that fail, or return what their seam cannot take: a sentence with the part, file and line."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from wavetune.costs.adapter import AdapterSite, Matrix
from wavetune.data.partition import Partition
from wavetune.errors import ConfigError, PartError
from wavetune.federation.adapters.adapter import Adapter
from wavetune.federation.codecs.codec import Context, Transform, UpdateCodec
from wavetune.federation.exchanges.exchange import Hop
from wavetune.federation.exchanges.star import Star
from wavetune.federation.filters.filter import Filter
from wavetune.federation.links import Link
from wavetune.federation.messages import Agenda, Field
from wavetune.federation.mixing import Mixing
from wavetune.federation.phases import Phase, PhasePart
from wavetune.federation.planning import Planner
from wavetune.federation.selection import Selection
from wavetune.federation.updates import Inbox, Update
from wavetune.part_values import values_of
from wavetune.wireless.fading import Fading
from wavetune.wireless.movement import Movement, Ring
from wavetune.wireless.path_loss import PathLoss
from wavetune.wireless.placement import Placement
from wavetune.wireless.rate_models import Envelope, RateModel

HERE = Context(0, 0, 0)
X = torch.ones(2, 3)
UPDATE = Update(0, 1.0, {"a.A": X}, {"a.A": torch.zeros(2, 3)})
SITES = [AdapterSite("a", 0, "lora", (Matrix("A", 3), Matrix("B", 3)))]


@dataclass(frozen=True)
class Fails(Filter):
    error: type[BaseException] = KeyError

    def take(self, inbox, state, context):
        raise self.error("q_proj")


def test_an_error_is_told_with_its_part_method_file_and_line():
    line = inspect.getsourcelines(Fails.take)[1] + 1
    told = re.escape(f"{__name__}:Fails failed in take (line {line} of {__file__}): KeyError: 'q_proj'")
    with pytest.raises(PartError, match=told) as found:
        Fails().take(Inbox(()), {}, HERE)
    assert isinstance(found.value.__cause__, KeyError)


def test_sentences_interrupts_and_decompositions_that_fail_pass_as_they_are():
    for error in (ConfigError, KeyboardInterrupt, torch.linalg.LinAlgError):
        with pytest.raises(error, match=r"^q_proj$"):
            Fails(error).take(Inbox(()), {}, HERE)


def test_what_a_seam_asks_for_and_a_part_lacks_is_named():
    @dataclass(frozen=True)
    class Mistyped(Filter):
        def taken(self, inbox, state, context):
            return inbox, state

    with pytest.raises(PartError, match="Mistyped has no take, which its seam asks of it"):
        Mistyped().take(Inbox(()), {}, HERE)


def test_a_property_that_a_part_lacks_is_named_too():
    @dataclass(frozen=True)
    class Unlimited(PathLoss):
        """Says nothing of its distances."""

    with pytest.raises(PartError, match="Unlimited has no distance_limits_m, which its seam asks of it"):
        _ = Unlimited().distance_limits_m


def test_a_field_that_hides_a_method_of_the_seam_is_refused_where_the_class_is_made():
    with pytest.raises(PartError, match="Hiding has a field step, which is a method of its seam; give it another name"):

        @dataclass(frozen=True)
        class Hiding(Mixing):  # pyright: ignore[reportUnusedClass]
            step: float = 0.1


def test_settings_that_a_part_refuses_in_its_own_words_are_told_with_the_part():
    @dataclass(frozen=True)
    class Even(Filter):
        number: int = 2

        def __post_init__(self):
            assert self.number % 2 == 0, "an odd number"

    with pytest.raises(PartError, match=r"Even failed in __post_init__ \(line .*\): AssertionError: an odd number"):
        Even(3)


def returning(base, name, value, **more):
    """A part of a seam whose method returns a value."""
    made = type("Wrong", (base,), {name: lambda _self, *_, **__: value, "__module__": __name__, **more})
    return dataclass(frozen=True)(made)()


class Records(Phase):
    def round(self, index):
        return index / 0


class Telling(Mixing):
    beside = ("c",)


MIXED = ({"a.A": X}, {"a.A": X}, {}, HERE)
TAKEN = (Inbox((UPDATE,)), {}, HERE)
PROBLEM = type("Problem", (), {"num_clients": 3})
WRONG = {
    "a filter without its state": (Filter, "take", Inbox(()), TAKEN, "it returned Inbox"),
    "a filter that remembers a number": (Filter, "take", (Inbox(()), {"n": 1.0}), TAKEN, r"\(Inbox, \{n: float\}\)"),
    "a mixture without its error": (Mixing, "combine", {"a.A": X}, ([UPDATE], SITES), r"\{a.A: Tensor \[2, 3\]\}"),
    "a mixture of other names": (Mixing, "combine", ({"a.C": X}, 0.0), ([UPDATE], SITES), "names and shapes"),
    "a mixture of other shapes": (Mixing, "combine", ({"a.A": X[:1]}, 0.0), ([UPDATE], SITES), "names and shapes"),
    "a mixture that is not finite": (Mixing, "combine", ({"a.A": X / 0}, 0.0), ([UPDATE], SITES), "finite values"),
    "a mixed matrix of another shape": (Mixing, "mix_values", X[None], (X[None], None), r"a tensor \[2, 3\]"),
    "a message that is not declared": (
        Transform,
        "send",
        ({"b": X}, {}),
        ({"a": X}, {}, HERE),
        r"declares, a \[2, 3\]",
    ),
    "another message": (
        Transform,
        "receive",
        {},
        ({"a": X}, {"a": Field((2, 3))}, HERE),
        r"sent, a \[2, 3\]",
    ),
    "a hop to nobody": (Star, "hops", (Hop("up", ((7, ("fed",)),)),), ([0], [0], 0), "among clients and fed"),
    "an agenda of blocks alone": (Star, "agenda", (0, 1), ({}, 4, 0), r"an Agenda .* it returned \(int, int\)"),
    "an agenda of nothing": (Star, "agenda", Agenda(()), ({}, 4, 0), "of all blocks or of some from 0 to 3"),
    "an agenda of other blocks": (Star, "agenda", Agenda((4,)), ({}, 4, 0), "of some from 0 to 3"),
    "an agenda of other factors": (Star, "agenda", Agenda(frozen=frozenset("C")), ({}, 4, 0), "frozen factors A and B"),
    "nothing to tell": (Telling, "step", ({"a.A": X}, {}), MIXED, r"what it remembers with c.a.A, finite and \[2, 3\]"),
    "values to tell of other shapes": (Telling, "step", ({"a.A": X}, {"c.a.A": X[0]}), MIXED, "with c.a.A"),
    "values to tell that are not finite": (
        Telling,
        "step",
        ({"a.A": X}, {"c.a.A": X / 0}),
        MIXED,
        "with c.a.A, finite",
    ),
    "what a node holds": (Star, "take", {"a.A": X}, (None,) * 6, "a Held"),
    "what an adapter yields": (Adapter, "forward", X[:, :2], (X, X, {}), r"a tensor \[2, 3\]"),
    "a client that there is not": (Selection, "choose", ([3], None), (PROBLEM,) * 5, "clients from 0 to 2"),
    "a client twice": (Selection, "choose", ([1, 1], None), (PROBLEM,) * 5, "clients from 0 to 2, each once"),
    "a state of numbers": (Selection, "init", {"n": 1}, (3,), "a dict of NumPy arrays"),
    "no plan": (Planner, "plan", None, (PROBLEM, 0), "a Plan; it returned NoneType"),
    "no phase": (PhasePart, "phase", None, (None,), "a Phase"),
    "positions of others": (
        Placement,
        "draw_m",
        np.zeros((3, 2)),
        ([0, 1], (), 1.0, 2.0),
        r"finite positions, \[2, 2\]",
    ),
    "a loss that is none": (PathLoss, "path_loss_db", np.full(2, np.nan), (np.ones(2), False, 1e9), "finite losses"),
    "a share above one": (PathLoss, "los_probability", np.full(2, 1.5), (np.ones(2),), r"probabilities, \[2\]"),
    "a fading of other sizes": (Fading, "power_gain_of", np.ones((2, 1)), (np.ones((2, 3)),), r"gains, .* \[2, 3\]"),
    "a fading below 0": (Fading, "power_gain", -np.ones((1, 3)), ([None], 3, 1e5), "finite and not below 0"),
    "a fading of complex values": (Fading, "power_gain_of", 1j * np.ones((2, 3)), (np.ones((2, 3)),), "power gains"),
    "amplitudes of one client": (Fading, "scattered", np.ones(3), ([None], 3, 1e5), r"finite amplitudes, \[1, 3\]"),
    "a way out of the cell": (
        Movement,
        "path_m",
        np.full((2, 2), 200.0),
        (np.ones(2), 1.0, 1, Ring(10.0, 100.0), None),
        r"positions from 10 to 100 m around the server, \[2, 2\]",
    ),
    "a deviation below 0": (PathLoss, "shadowing_std_db", -1.0, (np.ones(2, bool),), "finite deviations not below 0"),
    "shares of sending": (Link, "sent", [0.5, 0.5], ([1.0, 2.0],), "whether each of 2 clients sends"),
    "what one client sends": (Link, "sent", [True], ([1.0, 2.0],), "whether each of 2 clients sends"),
    "a share of arriving": (Link, "arrives", 0.3, (0, 0, 0), "true or false"),
    "no rows for a client": (Partition, "split", [np.arange(4), np.arange(0)], ("abcd", 2, 0), "at least 1 each"),
    "rows that are no whole numbers": (Partition, "split", [[0.0, 1.0], [2.0, 3.0]], ("abcd", 2, 0), "all rows"),
    "some of the rows": (Partition, "split", [[0], [2]], ("abcd", 2, 0), "all rows from 0 to 3"),
    "rows of two clients": (Partition, "split", [np.arange(4)] * 2, ("abcd", 2, 0), "no row of two"),
    "rows of too few": (Partition, "split", [np.arange(4)], ("abcd", 2, 0), "of 2 clients"),
    "rows that there are not": (Partition, "split", [[9], [1]], ("abcd", 2, 0), "rows from 0 to 3"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_a_seam_cannot_take_is_told_with_what_it_takes(case):
    seam, name, value, given, told = WRONG[case]
    with pytest.raises(PartError, match=rf"{name} of .*:Wrong \(line \d+ of .*\) is to return .*{told}"):
        getattr(returning(seam, name, value), name)(*given)


def test_a_codec_writes_what_its_fields_declare_and_reads_what_was_written():
    fields = {"fields": lambda _self, rows, width: {"v": Field((rows, width))}}
    with pytest.raises(PartError, match=r"encode of .* is to return what its fields declare, v \[2, 3\]"):
        returning(UpdateCodec, "encode", {"v": X[:1]}, **fields).encode(X)
    short = returning(UpdateCodec, "decode", X[:, :1], **fields)
    with pytest.raises(PartError, match=r"Wrong decodes \[2, 3\] to \[2, 1\]"):
        short.receive({"a|v": X}, {"a": Field((2, 3))}, HERE)
    with pytest.raises(ConfigError, match="'uint8' is no number format of a message; did you mean 'int8'"):
        Field((2, 3), "uint8")


def test_the_server_of_a_client_is_one_of_those_that_there_are():
    hops = {"hops": lambda _self, _clients, _active, _index: ()}
    with pytest.raises(PartError, match="whose server_of is among its servers, not as that of client 0"):
        returning(Star, "server_of", "cloud", **hops).hops([0], [0], 0)


def test_a_rate_keeps_below_its_envelope():
    above = {"envelope": lambda _self, _hz, _uplink=True: Envelope(0.5)}
    with pytest.raises(PartError, match="from 0 to what its envelope gives"):
        returning(RateModel, "rate_bit_per_s", np.array([1e6]), **above).rate_bit_per_s(np.array([1.0]), 1e6)
    with pytest.raises(PartError, match="an Envelope of positive numbers"):
        returning(RateModel, "envelope", Envelope(-1.0)).envelope(1e6)


def test_a_phase_that_fails_is_told_as_a_part_is():
    with pytest.raises(PartError, match=r"Records failed in round \(line .*\): ZeroDivisionError"):
        Records().round(1)


def test_a_field_that_no_recipe_can_hold_is_refused():
    @dataclass(frozen=True)
    class Ruled(Filter):
        rule: object = max

        def take(self, inbox, state, context):
            return inbox, state

    with pytest.raises(ConfigError, match="holds builtin_function_or_method, which a recipe cannot"):
        values_of(Ruled())
