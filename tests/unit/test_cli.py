import json
import logging
import re
import subprocess
import sys

import pytest

from helpers.command_line import assert_refused, settings, wavetune
from wavetune import __version__, recipe, recipes
from wavetune.cli import app, elsewhere
from wavetune.cli.options import _recipe_names
from wavetune.logs import level_of
from wavetune.recipe import from_dict


def test_version_is_the_packages():
    assert wavetune("--version").out.strip() == f"wavetune {__version__}"


@pytest.mark.parametrize(
    "command",
    ["run", "plan", "trade-off", "sweep", "recipes", "show", "measure-ranks", "measure-codecs", "report", "generate"],
)
def test_every_command_explains_itself(command):
    assert command in wavetune("--help").out
    answer = wavetune(command, "--help")
    assert answer.code == 0
    assert f" {command} " in answer.out


def test_only_the_options_of_the_command_that_is_given_are_built():
    def built(*names):
        return {command.name for command in app._asked_for(names).registered_commands}

    assert built("plan") == {"plan"}
    assert built() == built("--help") == built("plam") > {"plan", "run"}


@pytest.mark.parametrize(("command", "words"), [("plan", "or a plan instance"), ("show", "Name of a recipe")])
def test_arguments_are_explained_too(command, words):
    assert words in " ".join(wavetune(command, "--help").out.replace("│", " ").split())


def test_recipes_lists_every_recipe_with_what_it_does():
    lines = wavetune("recipes").out.splitlines()
    assert [line.split()[0] for line in lines] == recipes.names()
    assert all(recipes.title(line.split()[0]) in line for line in lines)


@pytest.mark.parametrize("name", recipes.names())
def test_show_prints_the_recipe_that_run_takes(name):
    shown = json.loads(wavetune("show", name, "--set", "run.rounds=7", "--seed", 3, "--model", "tiny").out)
    recipe = from_dict(shown)
    assert (recipe.run.rounds, recipe.run.seed, recipe.world.model) == (7, 3, "tiny")
    assert recipe.to_dict() == shown


def test_show_reads_a_recipe_file_and_writes_the_same(tmp_path):
    text = wavetune("show", "sflllm", "--data", "a folder").out
    (tmp_path / "mine.json").write_text(text)
    assert wavetune("show", tmp_path / "mine.json").out == text
    assert json.loads(text)["world"]["data"]["source"] == "a folder"


def test_plan_prints_a_row_a_client_the_delay_and_who_holds_up_the_others():
    answer = wavetune("plan", "sflllm", *settings())
    assert answer.code == 0
    rows = [line.split() for line in answer.out.splitlines()]
    assert [row[0] for row in rows if len(row) == 11 and row[0].isdigit()] == ["0", "1", "2"]
    assert "total delay to the target" in answer.out
    assert "holds the others up most" in answer.out
    assert "(counted exactly)" in answer.out
    assert "world: cell, a street cell with handsets (world.scenario.preset)" in answer.out


def test_plan_as_json_goes_to_a_file_or_to_standard_output(tmp_path):
    printed = json.loads(wavetune("plan", "sflllm", *settings(), "--json", "-").out)
    wavetune("plan", "sflllm", *settings(), "--json", tmp_path / "deep" / "plan.json")
    assert json.loads((tmp_path / "deep" / "plan.json").read_text()) == printed
    assert printed["status"] == "ok"


def test_plan_takes_rank_table_seed_and_model():
    one, other = (json.loads(wavetune("plan", "sflllm", *settings(), "--seed", s, "--json", "-").out) for s in (0, 1))
    assert one["delay_s"] != other["delay_s"]
    larger = json.loads(wavetune("plan", "sflllm", *settings(), "--model", "gpt2", "--json", "-").out)
    assert larger["delay_s"] > 3 * one["delay_s"]


def test_rank_table_decides_the_rank(tmp_path):
    for best in (1, 8):
        rounds = {str(r): 5.0 if r == best else 500.0 for r in (1, 2, 4, 8)}
        (tmp_path / "ranks.json").write_text(json.dumps({"rounds_to_target": rounds}))
        answer = wavetune("plan", "sflllm", *settings(), "--rank-table", tmp_path / "ranks.json", "--json", "-")
        assert json.loads(answer.out)["rank"] == best


def test_a_rank_table_of_several_seeds_says_which_ranks_cannot_be_told_apart(tmp_path):
    seeds = {"1": [50.0, 54.0, 49.0], "2": [50.0, 52.0, 51.0], "4": [80.0, 82.0, 81.0]}
    means = {rank: sum(of) / 3 for rank, of in seeds.items()}
    (tmp_path / "ranks.json").write_text(json.dumps({"rounds_to_target": means, "rounds_to_target_by_seed": seeds}))
    answer = wavetune("plan", "sflllm", *settings(), "--rank-table", tmp_path / "ranks.json")
    assert "over 3 seeds of E(r)" in answer.out
    assert "cannot be told apart from it; 4 (" in answer.out
    assert answer.out.split("cannot be told apart")[0].count("longer") == 1
    by_one_seed = wavetune("plan", "sflllm", *settings(), "--set", 'method.rounds_to_target={"1": 9, "2": 5}')
    assert "rank 2 by one seed of E(r), which cannot say how surely: 1 (" in by_one_seed.out
    assert "E(r)" not in wavetune("plan", "sflllm", *settings(), "--set", "method.lora.rank=4").out


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"rounds_to_target": 5}', '{"rounds_to_target": {"two": 5}}'])
def test_file_that_is_no_rank_table_is_refused(text, tmp_path):
    (tmp_path / "ranks.json").write_text(text)
    answer = wavetune("plan", "sflllm", *settings(), "--rank-table", tmp_path / "ranks.json")
    assert_refused(answer, "cannot read a rank table", "measure-ranks")


def test_rank_table_with_impossible_rounds_is_refused(tmp_path):
    (tmp_path / "ranks.json").write_text('{"rounds_to_target": {"2": -5}}')
    assert_refused(wavetune("plan", "sflllm", *settings(), "--rank-table", tmp_path / "ranks.json"), "rank 2")


def test_unknown_recipe_offers_the_nearest_names():
    assert_refused(wavetune("show", "sfllm"), "'sfllm'", "did you mean 'sflllm'")
    assert_refused(wavetune("plan", "unlike_any"), "choose one of", "fedavg_lora")
    assert_refused(wavetune("run"), "no recipe given", "sflllm")


def test_the_command_that_was_meant_is_named_once():
    for asked, meant in (("sevre", "'serve', 'sweep'"), ("prun", "'run', 'runs'")):
        assert_refused(wavetune(asked), f"No such command '{asked}'. Did you mean {meant}?; see wavetune --help")


def test_an_option_or_command_of_other_tools_is_answered_by_what_it_is_here():
    answer = wavetune("run", "sflllm", "--lr", "1e-3")
    assert_refused(
        answer, "No such option '--lr': it is method.optimiser.learning_rate=1e-3 by --set; see wavetune run --help"
    )
    assert_refused(wavetune("export", "runs/a"), "No such command 'export': RUN/adapters has what PEFT loads")


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (
            ("sweep", "sflllm", "--over", "num_clients=2,3", "--over", "bandwidth_hz=1e6,2e6"),
            "one sweep varies one field",
        ),
        (("sweep", "sflllm", "--over", "num_clients=2", "--methods", "proposed", "--methods", "greedy"), "by commas"),
        (("run", "sflllm", "--track", "tensorboard", "--track", "mlflow"), "separated by commas"),
        (("rank", "sflllm", "--under", "outage", "--under", "lost_devices"), "separated by commas"),
    ],
)
def test_a_list_that_is_given_twice_is_refused_as_the_first_would_be_lost(arguments, advice):
    assert_refused(wavetune(*arguments), f"{arguments[-2]} is given twice", advice)


def test_what_other_tools_options_and_commands_are_here_is_there():
    base, options = recipe("sflllm"), wavetune("run", "--help").out
    for what in elsewhere.OPTIONS.values():
        for setting in re.findall(r"[a-z_.]+=[^ ]+", what):
            base.with_settings(setting)
        for option in re.findall(r"--[a-z]+", what):
            assert option in options
    commands = wavetune("--help").out
    for what in elsewhere.COMMANDS.values():
        for command in re.findall(r"wavetune ([a-z]+)", what):
            assert re.search(rf"\b{command}\b", commands)
    names = [name for table in (elsewhere.OPTIONS, elsewhere.COMMANDS) for names in table for name in names.split()]
    assert len({*names}) == len(names)


def test_unknown_option_or_command_is_refused_by_name():
    for arguments in (["plan", "sflllm", "--sett", "a=1"], ["rnu", "sflllm"], ["run", "sflllm", "--seed", "x"]):
        answer = wavetune(*arguments)
        assert answer.code == 2
        assert "Traceback" not in answer.err
        assert arguments[-2] in answer.err or arguments[0] in answer.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "sflllm", "--out", ""], "--out is empty; name a file or folder"),
        (["report", "runs/a", ""], "RUN_DIR... is empty; name a file or folder"),
        (["run", "sflllm", "--data", ""], "world.data.source is ''"),
        (["run", "sflllm", "--model="], "world.model is ''"),
        (["plan", "sflllm", "--set", "world.scenario.bands.fed.num_subchannels=4001"], "num_subchannels is 4001"),
        (["plan", "sflllm", "--set", "method.topology.cuts=[]"], "method.topology.cuts is []"),
        (["plan", "sflllm", "--set", "method.lora.targets=[]"], "method.lora.targets is []"),
        (["plan", "sflllm", "--set", "method.phases=x"], "wavetune brings none; name one as package.module:Class"),
        (["plan", "sflllm", "--set", "method.mixing.x=1"], "method.mixing has no field 'x'; there is none to choose"),
        (["plan", "sflllm", "--set", "method.mixing=wavetune.federation.mixing:Median"], "whose name is 'median'"),
        (
            ["plan", "sflllm", "--set", "world.scenario.population.cycles_per_flop=1024"],
            "which looks like FLOP a cycle",
        ),
    ],
)
def test_what_would_be_taken_in_silence_for_something_else_is_refused(arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_refused(wavetune(*arguments), words)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"base": "sflllm", ', "is not JSON at column 20"),
        ("", "is not JSON at column 1"),
        ("[1]", "holds no JSON object; give a recipe or a plan instance"),
        ('{"base": "sflllm", "base": "gossip"}', "the key 'base' stands twice"),
        ('{"world": {"model": "tiny"}}', "is no whole recipe; say what it begins from, such as base: sflllm"),
        (None, "no such file or directory"),
    ],
)
def test_a_file_that_is_neither_recipe_nor_instance_is_refused_for_what_it_is(text, words, tmp_path):
    path = tmp_path / "mine.json"
    if text is not None:
        path.write_text(text)
    for command in ("plan", "trade-off"):
        assert_refused(wavetune(command, path, "--model", "tiny"), str(path), words)


def test_unknown_field_offers_the_nearest_names():
    assert_refused(wavetune("show", "sflllm", "--set", "run.rouns=3"), "did you mean 'rounds'")


@pytest.mark.parametrize("ranks", ["", "a", "1,x", "0,2", "-1", "1.5"])
def test_ranks_that_are_no_whole_numbers_are_refused(ranks):
    assert_refused(wavetune("measure-ranks", "sflllm", *settings(), f"--ranks={ranks}"), "--ranks is")


COMMANDS = [name for commands in app.COMMANDS.values() for name in commands]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_short_help_and_the_shared_options(command):
    short, long = wavetune(command, "-h"), wavetune(command, "--help")
    assert (short.code, short.out) == (0, long.out)
    assert "--quiet" in short.out
    assert "--verbose" in short.out


def test_short_forms_and_completion_are_offered():
    assert wavetune("-V").out == wavetune("--version").out
    everything = wavetune("-h").out
    assert "--install-completion" in everything
    assert all(name in everything for name in COMMANDS)


def test_the_module_is_the_command():
    answer = subprocess.run([sys.executable, "-m", "wavetune", "-V"], capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stdout) == (0, f"wavetune {__version__}\n")


def test_recipes_are_completed_by_name():
    assert _recipe_names("sfl") == ["sflllm"]
    assert set(_recipe_names("")) == {*recipes.names()}


def test_devices_are_named_in_the_help_and_others_refused():
    assert "auto|cpu|cuda" in wavetune("run", "-h").out
    assert_refused(wavetune("run", "sflllm", "--device", "tpu"), "'auto', 'cpu', 'cuda'")


def test_a_log_level_comes_from_the_options_or_the_environment(monkeypatch):
    assert level_of(False, False) == logging.INFO
    monkeypatch.setenv("WAVETUNE_LOG", "ERROR")
    assert level_of(False, False) == logging.ERROR
    assert level_of(False, True) == logging.DEBUG
    assert level_of(True, False) == logging.WARNING
    monkeypatch.setenv("WAVETUNE_LOG", "inof")
    assert_refused(wavetune("show", "sflllm"), "WAVETUNE_LOG is 'inof'", "did you mean 'info'")


def test_field_of_a_part_is_found_wherever_it_stands():
    assert_refused(wavetune("show", "sflllm", "--set", "method.cut=8"), "method.topology.cut")
    assert_refused(wavetune("show", "sflllm", "--set", "batch_size=8"), "world.data.batching.batch_size")
    assert_refused(wavetune("show", "sflllm", "--set", "run.learning_rate=1"), "method.optimiser.learning_rate")


def test_a_long_recipe_is_short_with_a_tiny_model_alone(tmp_path):
    whole, short, changed = (
        from_dict(json.loads(wavetune("show", "pwff", *more).out))
        for more in ([], ["--model", "tiny"], ["--model", "tiny", "--set", "run.rounds=5"])
    )
    assert short.run.rounds < whole.run.rounds
    assert short.method.alignment.learning.steps < whole.method.alignment.learning.steps
    assert short.method.alignment.safe.training.steps < whole.method.alignment.safe.training.steps
    assert changed.run.rounds == 5
    (tmp_path / "pwff.json").write_text(wavetune("show", "pwff").out)
    from_file = from_dict(json.loads(wavetune("show", tmp_path / "pwff.json", "--model", "tiny").out))
    assert from_file.run == whole.run
