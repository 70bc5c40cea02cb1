"""Certificates of own cuts: confirmed without the planner, below the best of all, and refused if tampered with."""

import copy
import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.command_line import wavetune
from helpers.json_numbers import numbers
from helpers.scripts import script
from wavetune.allocation.certificate import plan_with_certificate
from wavetune.allocation.instance import plan_to_json, problem_to_json

ROOT = Path(__file__).parents[3]
KIND = "both ways, cuts per client, slow server"


checker, shares, problem_of = (
    script(ROOT / "tools" / "verify_own_cuts.py"),
    script(ROOT / "tools" / "verify_shares.py"),
    script(ROOT / "benchmarks" / "planner_classes.py").problem_of,
)


def certified(problem):
    """Instance, plan and certificate, as they are read from files."""
    plan, certificate = plan_with_certificate(problem)
    return json.loads(json.dumps([problem_to_json(problem), plan_to_json(plan), certificate]))


@pytest.fixture(scope="module")
def small():
    """Three clients and seven subchannels, which takes cuts, seconds and owners to prove."""
    return certified(problem_of(KIND, 3, 7, 1).restrict([2, 4, 5, 8, 11], [4, 8]))


def checked(written, tmp_path, capsys, tool=checker):
    """Exit code and words of a checker."""
    paths = [tmp_path / f"{name}.json" for name in ("instance", "plan", "certificate")]
    for path, content in zip(paths, written, strict=True):
        path.write_text(json.dumps(content))
    code = tool.main(*paths)
    return code, capsys.readouterr().out


@pytest.mark.parametrize(
    ("kind", "clients", "subchannels", "seed", "share"),
    [
        ("cuts per client, slow server", 4, 9, 3, 0.9995),
        ("both ways, cuts per client, memory floors", 3, 6, 1, 0.998),
        ("cuts and shares, slow server", 4, 9, 3, 0.99),
        ("shares, slow server", 4, 9, 3, 0.99),
    ],
)
def test_what_search_proved_is_nearly_all_confirmed(kind, clients, subchannels, seed, share, tmp_path, capsys):
    written = certified(problem_of(kind, clients, subchannels, seed).restrict(ranks=[4]))
    confirmed(written, share, tmp_path, capsys, shares if "shares" in kind else checker)


def test_what_search_proved_of_both_ways_and_ranks_is_nearly_all_confirmed(small, tmp_path, capsys):
    confirmed(small, 0.9995, tmp_path, capsys, checker)


def confirmed(written, share, tmp_path, capsys, tool):
    code, words = checked(written, tmp_path, capsys, tool)
    assert code == 0, words
    _, plan, certificate = written
    assert certificate["lower_bound_s"] >= share * plan["lower_bound_s"]
    assert certificate["lower_bound_s"] <= plan["delay_s"]


def every(proof):
    """All parts of a proof."""
    yield proof
    for name in ("then", "has", "lacks"):
        if name in proof:
            yield from every(proof[name])


def tampered(small):
    """Certificates that claim more than they prove."""

    def changed(change):
        copied = copy.deepcopy(small)
        change(copied[2], next(iter(every(copied[2]["ranks"][0]["proof"]))))
        return copied

    yield changed(lambda c, _: c.update(lower_bound_s=1.01 * c["lower_bound_s"]))
    yield changed(lambda c, _: c.update(lower_bound_s=float("nan")))
    yield changed(lambda c, _: c["ranks"].pop())
    yield changed(lambda _, first: first.clear())
    yield changed(lambda _, first: first["late"].pop())
    yield changed(lambda _, first: first["late"][0].__setitem__(0, -1.0))
    yield changed(lambda _, first: first["main"].update(power=-1.0))
    yield changed(lambda _, first: first["fed"]["subchannels"].__setitem__(0, -1.0))
    yield changed(lambda _, first: first["then"].clear())
    yield changed(lambda _, first: first.update(clients=[{} for _ in first["clients"]]))
    yield changed(lambda _, first: first.update(clients=[[] for _ in first["clients"]]))


def test_a_tampered_certificate_or_plan_is_refused(small, tmp_path, capsys):
    assert checked(small, tmp_path, capsys)[0] == 0
    for written in tampered(small):
        code, words = checked(written, tmp_path, capsys)
        assert (code, words[:9]) == (2 if "malformed" in words else 1, "refused: ")
    for change in ({"delay_s": 0.999 * small[1]["delay_s"]}, {"cut": [2, 4, 3]}, {"cut": [2, 4]}, {"rank": 2}):
        code, words = checked((small[0], small[1] | change, small[2]), tmp_path, capsys)
        assert (code, words[:9]) == (1, "refused: ")


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_no_number_can_be_changed_so_that_it_proves_what_is_false(small, data):
    """A plan with a delay exists, so that no certificate of its instance proves more than that."""
    instance, plan, certificate = copy.deepcopy(small)
    certificate["lower_bound_s"] = 1.001 * plan["delay_s"]
    for path in data.draw(st.lists(st.sampled_from(list(numbers(certificate["ranks"]))), min_size=1, max_size=4)):
        parent = certificate["ranks"]
        for key in path[:-1]:
            parent = parent[key]
        values = [-1.0, 0.0, 0.5, 2.0, 1e6, 1e200, float("nan"), float("inf"), -float("inf"), [0, 1], "0", None]
        parent[path[-1]] = data.draw(st.sampled_from(values))
    with (
        np.errstate(all="ignore"),
        pytest.raises(
            (
                checker.verify_plan.RefusedError,
                KeyError,
                TypeError,
                ValueError,
                IndexError,
                ArithmeticError,
                AttributeError,
            )
        ),
    ):
        checker.bound(instance, certificate)


@pytest.mark.parametrize("tool", ["verify_plan", "verify_own_cuts", "verify_shares"])
@pytest.mark.parametrize(
    "content",
    ["[" * 100_000, 1000 * "x" + "\udcff", "9" * 5000, "[]", '{"a": NaN}'],
    ids=["deep", "no text", "digits", "list", "nan"],
)
def test_files_that_are_no_plans_are_refused_in_a_line(tmp_path, capsys, tool, content):
    (tmp_path / "plan.json").write_text(content, errors="surrogateescape")
    assert importlib.import_module(tool).main(tmp_path / "plan.json", tmp_path / "plan.json") == 2
    assert re.fullmatch("refused: malformed or incomplete, .{,200}\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("tool", "others"),
    [("verify_own_cuts", {"verify_plan"}), ("verify_shares", {"verify_plan", "verify_own_cuts"})],
)
def test_the_checkers_import_numpy_and_each_other_alone_and_are_short(tool, others):
    lines = (ROOT / "tools" / f"{tool}.py").read_text().splitlines()
    assert len(lines) <= 200
    imported = {line.split()[1].split(".")[0] for line in lines if line.startswith(("import ", "from "))}
    assert imported <= {"json", "sys", "pathlib", "functools", "numpy", *others}


OWN_CUTS, SHARES = "method.planner.cut_per_client=true", "method.server_shares=optimal"
CODECS, SELECTED = "method.choose_codecs=true", ("method.selection.kind=at_random", "method.selection.count=2")


@pytest.mark.parametrize(
    ("tool", "changes"),
    [
        ("verify_own_cuts", (OWN_CUTS, "method.lora.rank=4")),
        ("verify_plan", (CODECS, *SELECTED)),
        ("verify_shares", (SHARES, "method.topology.cut=2", "method.lora.rank=4")),
    ],
)
def test_the_certificate_of_a_recipe_holds_its_instance_and_is_confirmed(tool, changes, tmp_path, capsys):
    chosen, certificate = tmp_path / "plan.json", tmp_path / "certificate.json"
    few = (f"world.scenario.bands.{band}.num_subchannels=6" for band in ("main", "fed"))
    changes = (*changes, "world.scenario.population.num_clients=3", *few)
    asked = [word for change in changes for word in ("--set", change)]
    answer = wavetune("plan", "sflllm", "--model", "tiny", *asked, "--json", chosen, "--certificate", certificate)
    assert answer.code == 0, answer.err
    assert "the certificate proves" in answer.out
    checker = script(ROOT / "tools" / f"{tool}.py")
    assert checker.main(chosen, certificate) == 0
    assert float(capsys.readouterr().out.split("proved gap ")[1].rstrip("%\n")) < 3.0
    written = json.loads(certificate.read_text())
    plan = json.loads(chosen.read_text())
    assert len(written["instance"]["clients"]) == sum(plan.get("active", [1, 1, 1]))
    if CODECS in changes:  # what is proved of one choice of codecs does not hold for the others
        certificate.write_text(json.dumps(written | {"beside": [*written["beside"][:-1], {}]}))
        assert checker.main(chosen, certificate) == 2


def test_adapters_of_one_cut_for_all_are_proved_by_themselves_beside_shares(tmp_path, capsys):
    written = certified(problem_of("both ways, shares, slow server", 3, 3, 0).restrict([4], [4]))
    confirmed(written, 0.99, tmp_path, capsys, shares)
    (one,) = written[2]["pairs"]
    assert one.pop("fed")
    code, words = checked(written, tmp_path, capsys, shares)
    assert (code, words[:9]) == (1, "refused: ")
