"""Parts of somebody else's, and what parts need of each other."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

import pytest

from wavetune import recipes
from wavetune.errors import ConfigError
from wavetune.federation.mixing import Mixing
from wavetune.federation.topology import Split
from wavetune.part_values import read_part, values_of
from wavetune.parts import Extent, Fact, Part, check, kinds, named
from wavetune.recipe import from_dict, with_settings

SIZE = Extent(num_clients=3, num_layers=4, width=8)
EACH = Fact("every update by itself", onwards=True)
START = Fact("a common start")


@dataclass(frozen=True)
class Alone(Part):
    needs = (EACH, START)


@dataclass(frozen=True)
class Summed(Part):
    removes = (EACH,)


@dataclass(frozen=True)
class Apart(Part):
    removes = (START,)


@dataclass(frozen=True)
class Chain(Part):
    steps: tuple[Part, ...] = ()
    up: tuple[Part, ...] = field(default=(), metadata={"message": "up"})
    down: tuple[Part, ...] = field(default=(), metadata={"message": "down"})
    slow: bool = field(default=False, metadata={"needs": (START,)})


def test_what_is_taken_away_onwards_is_missing_only_afterwards():
    check(Chain((Alone(), Summed())), "it", SIZE)
    with pytest.raises(ConfigError, match=r"it\.steps\.1 needs every update by itself, which it\.steps\.0 does not"):
        check(Chain((Summed(), Alone())), "it", SIZE)


@pytest.mark.parametrize("steps", [(Alone(), Apart()), (Apart(), Alone())])
def test_what_is_taken_away_for_good_is_missing_before_as_well(steps):
    with pytest.raises(ConfigError, match="needs a common start"):
        check(Chain(steps), "it", SIZE)


def test_what_is_taken_away_from_one_message_is_not_missing_in_another():
    check(Chain(up=(Apart(),), down=(Alone(),)), "it", SIZE)
    with pytest.raises(ConfigError, match=r"it\.up\.1 needs"):
        check(Chain(up=(Apart(), Alone())), "it", SIZE)
    with pytest.raises(ConfigError, match=r"it\.down needs"):
        check(Chain(steps=(Apart(),), down=(Alone(),)), "it", SIZE)


def test_a_setting_needs_something_only_where_it_differs_from_its_default():
    check(Chain((Apart(),)), "it", SIZE)
    with pytest.raises(ConfigError, match=r"it\.slow True needs a common start, .*; leave it\.steps out, or leave"):
        check(Chain((Apart(),), slow=True), "it", SIZE)


THEIRS = """
from dataclasses import dataclass
from wavetune.federation.mixing import Mixing
from wavetune.federation.facts import CUT

@dataclass(frozen=True)
class Scores(Mixing):
    chi: float = 1.0
    needs = (CUT,)

class Open(Mixing):
    pass
"""


@pytest.fixture
def theirs(tmp_path, monkeypatch):
    (tmp_path / "their_mixing.py").write_text(THEIRS)
    monkeypatch.syspath_prepend(tmp_path)
    yield "their_mixing:Scores"
    sys.modules.pop("their_mixing", None)


def test_a_part_of_somebody_elses_is_named_by_its_path_saved_and_set(theirs):
    recipe = with_settings(recipes.get("sflllm"), [f"method.mixing={theirs}", "method.mixing.chi=2"])
    assert recipe.to_dict()["method"]["mixing"] == {"kind": theirs, "chi": 2.0}
    assert from_dict(recipe.to_dict()) == recipe
    recipe.method.check(5, 4, 16)
    with pytest.raises(ConfigError, match=r"method\.mixing their_mixing:Scores needs a cut"):
        with_settings(recipe, ["method.topology=federated"]).method.check(5, 4, 8)
    with pytest.raises(ConfigError, match=r"method\.mixing has no field 'chy'; did you mean 'chi'"):
        with_settings(recipe, ["method.mixing.chy=2"])


def test_a_part_is_imported_only_from_packages_that_are_allowed(theirs):
    values = with_settings(recipes.get("sflllm"), [f"method.mixing={theirs}"]).to_dict()
    sys.modules.pop("their_mixing")
    with pytest.raises(ConfigError, match=r"their_mixing:Scores.*start it with --allow their_mixing"):
        from_dict(values, packages=())
    assert "their_mixing" not in sys.modules
    assert from_dict(values, packages=("their_mixing",)).method.mixing.kind == theirs


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("smallest", r"method\.mixing\.kind is 'smallest'; choose one of .*, or name one as package.module:Class"),
        ("mdian", r"method\.mixing\.kind is 'mdian'; did you mean 'median'"),
        ("FedProx", r"that is average_factors with method\.proximal=0\.01 here"),
        ("Fed_Avg", "that is average_factors here"),
        ("nowhere_at_all:Scores", r"cannot import method\.mixing\.kind 'nowhere_at_all:Scores': ModuleNotFoundError"),
        ("nowhere_at_all:Scores", "install its package, or put the folder that holds it on PYTHONPATH"),
        ("./more/nowhere.py:Scores", "write nowhere:Scores, with the folder of the file on PYTHONPATH"),
        ("their_mixing:Skores", "their_mixing has no name 'Skores'"),
        ("their_mixing:Open", "no frozen dataclass derived from wavetune.federation.mixing.Mixing"),
        ("wavetune.federation.topology:Split", "no frozen dataclass derived from"),
        ("os:system", "Python's own library"),
        ("their_mixing:", "is named module:name"),
    ],
)
def test_what_is_no_part_of_the_seam_is_refused(theirs, kind, sentence):
    with pytest.raises(ConfigError, match=sentence):
        with_settings(recipes.get("sflllm"), [f"method.mixing={kind}"])


def test_kinds_are_what_stands_in_the_home_of_a_seam():
    assert named("median", Mixing, "method.mixing.kind") is kinds(Mixing)["median"]
    assert {what.partition(" ")[0] for what in Mixing.elsewhere.values()} <= kinds(Mixing).keys()
    assert all(kind == part.kind for kind, part in kinds(Mixing).items())


def test_one_part_stands_for_a_list_of_one():
    candidates = with_settings(
        recipes.get("sflllm"), ['method.codec_candidates={"activation":"int8","gradient":"bf16"}']
    ).method.codec_candidates
    assert [c.activation.kind for c in candidates] == ["int8"]
    changed = with_settings(
        recipes.get("sflllm"),
        [
            'method.codec_candidates=[{"activation":"int8","gradient":"bf16"}]',
            "method.codec_candidates.0.gradient=int8",
            "method.codec_candidates.0.gradient.outlier_channels=3",
        ],
    ).method.codec_candidates
    assert changed[0].gradient.outlier_channels == 3
    with pytest.raises(ConfigError, match=r"codec_candidates is a list of 0; it has no entry '0'"):
        with_settings(recipes.get("sflllm"), ["method.codec_candidates=[]", "method.codec_candidates.0.gradient=bf16"])


def test_a_part_of_its_own_has_no_kind_in_json():
    assert "kind" in values_of(Split())
    assert "kind" not in values_of(Chain())
    assert read_part(Split, {"kind": "split", "cut": 3}) == Split(cut=3)
