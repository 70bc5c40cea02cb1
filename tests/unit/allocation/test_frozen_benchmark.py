"""The frozen benchmark: worlds whose best cut or rank is chosen, and a checker that scores anybody's plans."""

import copy
import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest

from wavetune.allocation.instance import problem_from_json
from wavetune.allocation.planner import plan

ROOT = Path(__file__).parents[3]


def module(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    found = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.fixture(scope="module")
def frozen():
    return module(ROOT / "benchmarks" / "frozen.py")


@pytest.fixture(scope="module")
def checker():
    return module(ROOT / "tools" / "score_plans.py")


@pytest.fixture(scope="module")
def known(checker):
    return checker.worlds()


def choice(instance):
    found = plan(problem_from_json(instance), time_limit_s=0.05)
    return int(found.cut_K[0]), int(found.rank_K[0])


def test_there_are_three_worlds_of_thirty_instances_made_by_the_script(frozen, known):
    assert {*known} == {*frozen.WORLDS}
    for name, world in frozen.WORLDS.items():
        assert len(known[name]) == frozen.COUNT
        assert known[name][7]["instance"] == json.loads(json.dumps(world(7)))


def test_the_cut_of_a_loaded_server_is_within_and_moves_with_memory_and_load(frozen):
    cut, _ = choice(frozen.loaded_server(0))
    assert 1 < cut < frozen.LAYERS - 1
    assert choice(frozen.loaded_server(0, memory_gb=(14.0, 20.0)))[0] > cut
    assert choice(frozen.loaded_server(0, server_flop_per_s=1e15))[0] < cut


def test_the_rank_of_private_blocks_is_within_and_moves_with_the_band_and_the_cut_with_the_floor(frozen):
    cut, rank = choice(frozen.private_blocks(0))
    assert cut == 4
    assert 1 < rank < 8
    assert choice(frozen.private_blocks(0, fed_hz=5e5))[1] > rank
    assert choice(frozen.private_blocks(0, fed_hz=50.0))[1] < rank
    assert choice(frozen.private_blocks(0, floor=6))[0] == 6


def test_the_cut_of_a_narrowing_model_starts_a_stage_and_moves_with_the_speed_of_devices(frozen):
    cut, _ = choice(frozen.narrowing_model(0))
    assert cut in (4, 7)
    assert choice(frozen.narrowing_model(0, slower=0.1))[0] > cut
    assert choice(frozen.narrowing_model(0, slower=1000.0))[0] < cut


def test_best_known_plans_score_as_they_are_listed_and_keep_within_their_proved_gaps(checker, known):
    found = checker.score({name: [row["plan"] for row in rows] for name, rows in known.items()})
    for name, excess in found.items():
        gaps = [row["best_known_s"] / row["lower_bound_s"] - 1 for row in known[name]]
        assert excess[:, 0] == pytest.approx(0.0, abs=1e-9)
        assert excess[:, 1] == pytest.approx(gaps, abs=1e-9)
        assert max(gaps) < 0.05


def tampered(row, how):
    changed = copy.deepcopy(row["plan"])
    main = changed["bands"]["main"]
    if how == "power":
        main["power_w"] = [1.01 * power for power in main["power_w"]]
    if how == "owner":
        main["owner"] = [main["owner"][0]] * len(main["owner"])
    if how == "rank":
        changed["rank"] = 3
    if how == "shape":
        main["owner"] = main["owner"][:-1]
    if how == "missing":
        del changed["bands"]["fed"]
    return changed


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("power", "power"),
        ("owner", "no rate|power"),
        ("rank", "not allowed"),
        ("shape", "entries"),
        ("missing", "malformed"),
    ],
)
def test_a_plan_that_was_tampered_with_is_refused_by_world_and_number(how, why, checker, known, tmp_path, capsys):
    rows = known["private-blocks"]
    plans = [rows[0]["plan"], tampered(rows[1], how)]
    (tmp_path / "plans.json").write_text(json.dumps({"private-blocks": plans}))
    assert checker.main(tmp_path / "plans.json") == (2 if how == "missing" else 1)
    said = capsys.readouterr().out
    assert re.match(rf"refused: private-blocks, plan 1: .*({why})", said), said


@pytest.mark.parametrize("content", ["no JSON", "[" * 100_000, "\udcff", None])
def test_a_file_that_holds_no_plans_is_told_in_a_line(content, checker, tmp_path, capsys):
    path = tmp_path / "plans.json"
    if content is not None:
        path.write_text(content, errors="surrogateescape")
    assert checker.main(path) == checker.main() == 2
    assert re.fullmatch("(refused: [^\n]+\n){2}", capsys.readouterr().out)


def test_what_a_plan_says_of_itself_is_not_read(checker, known):
    row = known["loaded-server"][0]
    (excess,) = checker.score({"loaded-server": [row["plan"] | {"delay_s": 1e-3, "lower_bound_s": 0.0}]})[
        "loaded-server"
    ]
    assert excess[0] == pytest.approx(0.0, abs=1e-9)


def test_a_plan_below_the_proved_bound_is_reported_and_not_scored(checker, known, monkeypatch):
    row = known["loaded-server"][0]
    raised = {"loaded-server": [row | {"lower_bound_s": 1.001 * row["best_known_s"]}]}
    monkeypatch.setattr(checker, "worlds", lambda: raised)
    with pytest.raises(checker.RefusedError, match="below the proved bound"):
        checker.score({"loaded-server": [row["plan"]]})


def test_the_checker_knows_nothing_of_wavetune():
    for name in ("score_plans", "verify_plan"):
        text = (ROOT / "tools" / f"{name}.py").read_text(encoding="utf-8")
        assert not re.search(r"^\s*(import|from) wavetune", text, re.MULTILINE)
