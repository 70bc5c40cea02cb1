"""Every command of wavetune that the README or a page prints runs to its end, at its smallest size.

The pages are read, so a command that is printed tomorrow runs tomorrow. What is printed is cut down, not replaced:
fewer rounds, rows, clients, seeds and values, and the tiny model where weights are needed.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import click
import pytest
from matplotlib.figure import Figure

from helpers.command_line import flatten, wavetune
from helpers.printed_commands import ROOT, Printed, options_of, parsed, printed
from helpers.problems import cell_problem
from wavetune import recipes
from wavetune.allocation.instance import problem_to_json
from wavetune.federation.planning import Optimal
from wavetune.federation.topology import Split

STANDS_FOR = {
    "RECIPE": "sflllm",
    "RECIPE...": "sflllm",
    "[OTHER]": "gossip",
    "M": "tiny",
    "my-org/model": "tiny",
    "KIND": "helpful",
    "COMMAND": "plan",
    "FIELD=V1,V2,...": "bandwidth_hz=5e6,10e6",
    "RUN_DIR": "runs/sflllm",
    "...": "runs/centralised_lora",
}
DATA_OF = {"pwff_task": "labelled", "pwff": "pairs", "train-reward": "pairs"}  # by recipe or command; others: rows
OWN_FILE = "mine.csv"  # printed with names of its columns
FIRST_RUNS = ("sflllm", "centralised_lora")  # the folders in runs/ that pages go on with

ELSEWHERE = {  # words of commands that start other processes or need them; these tests do it
    "deploy": "tests/end_to_end/test_deploy.py",
    "serve": "tests/end_to_end/test_deploy.py",
    "device": "tests/end_to_end/test_deploy.py",
    "devices": "tests/unit/runtimes/test_roster.py",
    "watch": "tests/unit/reporting/test_watch.py",
    "runs/personal/devices/device-01": "tests/end_to_end/test_deploy_alignment.py",
    "flower-app": "tests/end_to_end/test_flower.py",
    "STATE": "tests/end_to_end/test_flower.py",
    "--workers": "tests/end_to_end/test_ray.py",
    "--ray": "tests/end_to_end/test_ray.py",
    "--install-completion": "tests/unit/test_cli.py",
}

OPTIONS = {"--seeds": "1", "--prompts": "2", "--max-new-tokens": "2", "--points": "2", "--jobs": "1", "--ranks": "1,2"}
CODECS = "bf16,int8"
SOME = ("sflllm", "gossip")  # instead of all that can be ranked
METHODS = {"sweep": "greedy", "compare": "proposed"}  # where the command names none
REWARD_OPTIONS = {
    "--model": "tiny-bert",
    "--steps": "1",
    "--pairs-per-step": "2",
    "--train-pairs": "8",
    "--max-tokens": "16",
}
CUTS, POPULATION = "method.topology.cuts", "world.scenario.population."
CLIENTS = POPULATION + "num_clients"
BANDS = {f"world.scenario.bands.{band}.num_subchannels": "6" for band in ("main", "fed")}
SEARCH = {"method.planner.time_limit_s": "0.05"}
TRAINING = {
    "world.data.train_samples": "48",
    "world.data.validation_samples": "4",
    "world.data.max_tokens": "48",
    "world.data.batching.batch_size": "1",
    CLIENTS: "3",
    **BANDS,
    "run.rounds": "1",
    "run.local_steps": "1",
    "run.samples": "0",
    "run.precision": "fp32",
    "run.device": "cpu",
}
PLANNING = {
    "world.data.train_samples": "60",
    "world.data.validation_samples": "8",
    CLIENTS: "3",
    **BANDS,
    CUTS: "[1,9]",
}
REWARD = {
    "model": "tiny-bert",
    "steps": "1",
    "pairs_per_step": "2",
    "train_pairs": "8",
    "validation_pairs": "4",
    "test_pairs": "4",
    "max_tokens": "32",
}
ALIGNMENT = {
    "world.data.max_tokens": "224",
    "method.alignment.learning.steps": "1",
    "method.alignment.learning.prompts_per_step": "2",
    "method.alignment.learning.max_prompt_tokens": "64",
    "method.alignment.learning.max_new_tokens": "2",
    "method.alignment.held_out_prompts": "2",
    **{
        f"method.alignment.{reward}.training.{name}": value
        for reward in ("helpful", "safe")
        for name, value in REWARD.items()
    },
}


def recipe_of(words: list[str]) -> str | None:
    """The recipe that a command names, whose run's recipe.json it names, or that a world's file begins from."""
    named = words[1].removeprefix("runs/").removesuffix("/recipe.json") if len(words) > 1 else None
    named = "sflllm" if named and named.startswith("examples/worlds/") else named
    return named if named in recipes.names() else None


def with_option(words: list[str], option: str, value: str) -> list[str]:
    """The words with this value of an option, whatever was printed."""
    if option not in words:
        return [*words, option, value]
    at = words.index(option) + 1
    return [*words[:at], value, *words[at + 1 :]]


def in_our_words(words: tuple[str, ...]) -> list[str]:
    """The words with something that exists in place of each name that stands for the reader's own."""
    found = [re.sub(r"=my-org/model$", "=tiny", STANDS_FOR.get(word, word)) for word in words]
    if "--data" in found and OWN_FILE not in found:
        found = with_option(found, "--data", DATA_OF.get(recipe_of(found) or found[0], "rows"))
    return found


def apart(words: list[str]) -> tuple[list[str], dict[str, str]]:
    """A command without its settings, and these by their path."""
    settings = {}
    for at, word in enumerate(words):
        if word == "--set":
            path, value = words[at + 1].split("=", 1)
            settings[path] = value
    rest = [word for before, word in zip(["", *words], words, strict=False) if "--set" not in (before, word)]
    return rest, settings


def together(words: list[str], settings: dict[str, str]) -> list[str]:
    return [*words, *flatten(("--set", f"{path}={value}") for path, value in settings.items())]


def with_tiny_model(words: list[str], settings: dict[str, str]) -> list[str]:
    tiny = "tiny-bert" if recipe_of(words) == "pwff_task" else "tiny"
    return words if "--model" in words or "world.model" in settings else [*words, "--model", tiny]


def at_smallest_size(words: list[str]) -> list[str]:
    """The command with the smallest value of all that makes it long."""
    if words[0].startswith("-") or "--help" in words:
        return words
    if "--resume" in words:
        return with_option(words, "--rounds", "2") if "--rounds" in words else words
    command, takes = words[0], options_of(words[0])
    changes = REWARD_OPTIONS if command == "train-reward" else {o: v for o, v in OPTIONS.items() if o in takes}
    if "--rounds" in words:
        changes = changes | {"--rounds": "1"}
    if "--over" in words:
        changes = changes | {"--over": ",".join(words[words.index("--over") + 1].split(",")[:2])}
    if command == "measure-codecs":
        changes = changes | {"--codecs": CODECS}
    if command == "rank":
        words = words if recipe_of(words) else ["rank", *SOME, *words[1:]]
        named = [word for word in words[1:] if word in recipes.names()]
        words = [word for word in words if word not in named[2:]]
        words = words if "--under" in words else [*words, "--under", "nothing"]
    if command in METHODS and not (command == "compare" and words[2:3] and words[2] in recipes.names()):
        named = words[words.index("--methods") + 1] if "--methods" in words else METHODS[command]
        changes = changes | {"--methods": named.rpartition(",")[2]}
    for option, value in changes.items():
        words = with_option(words, option, value)
    if command in ("plan", "sweep", "trade-off") and recipe_of(words):
        return with_least(words, planning_of(recipe_of(words)))
    if {"--set", "--device"} <= takes:
        return with_least(words, training_of(recipe_of(words)))
    return with_least(words, {}) if {"--codec-table", "--rank-table"} & {*words} else words


def planning_of(recipe: str | None) -> dict[str, str]:
    """Settings of a recipe's shortest plan."""
    return {path: value for path, value in PLANNING.items() if path != CUTS or is_split(recipe)} | search_of(recipe)


def is_split(recipe: str | None) -> bool:
    return recipe is not None and isinstance(recipes.get(recipe).method.topology, Split)


def search_of(recipe: str | None) -> dict[str, str]:
    return SEARCH if recipe is None or isinstance(recipes.get(recipe).method.planner, Optimal) else {}


def training_of(recipe: str | None) -> dict[str, str]:
    """Settings of a recipe's shortest training."""
    smallest = TRAINING | search_of(recipe) | (ALIGNMENT if recipe == "pwff" else {})
    if recipe == "fedsllm":  # it plans its local steps
        del smallest["run.local_steps"]
    return smallest


def with_least(words: list[str], smallest: dict[str, str]) -> list[str]:
    """The smallest settings before the printed ones, which keep what is no matter of size; the tiny model to train."""
    words, settings = apart(words)
    if "run.rounds" in smallest:
        words = with_tiny_model(words, settings)
    if any(path.startswith(POPULATION) and value.startswith("[") for path, value in settings.items()):  # one a client
        smallest = {path: value for path, value in smallest.items() if path != CLIENTS}
    if any(path.endswith("round_deadline_s") for path in settings):  # which the whole band keeps
        smallest = {path: value for path, value in smallest.items() if path not in BANDS}
    return together(words, smallest | settings | smallest)


def as_plan(words: list[str]) -> list[str] | None:
    """What plans the recipe of a command that does not run here; None where it names none."""
    words, settings = apart(words)
    named = recipe_of(words)
    planned = words[1] if named and words[1].endswith(".json") else named  # a run's folder is no recipe
    return at_smallest_size(together(["plan", planned], settings)) if planned else None


def is_whole(words: list[str]) -> bool:
    """Whether a command has what it needs to run; prose may name one, or an option of it, without."""
    try:
        given = parsed(words)
    except click.MissingParameter:
        return False
    return given.get("out") is not None or None not in (given.get("recipe", ""), given.get("kind", ""))


def to_run(command: Printed) -> list[str] | None:
    """What is run for a printed command; None where there is nothing to run."""
    words = in_our_words(command.arguments)
    if command.in_prose and not is_whole(words):
        return None
    return as_plan(words) if {*ELSEWHERE} & {*words} else at_smallest_size(words)


def commands_by_page() -> dict[str, dict[str, tuple[list[str], str]]]:
    """What is run for each printed command, once, on the page that prints it first, and where its output goes."""
    pages: dict[str, dict[str, tuple[list[str], str]]] = {}
    seen: set[str] = set()
    for command in printed():
        words = to_run(command) if command.program == "wavetune" else None
        if words and shlex.join(words) not in seen:
            seen.add(shlex.join(words))
            pages.setdefault(command.page, {})[shlex.join(command.arguments)] = (words, command.into)
    return pages


PAGES = commands_by_page()


def write_rows(folder: Path, rows: dict[str, list[dict[str, object]]]) -> None:
    folder.mkdir()
    for name, part in rows.items():
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, part)))


@pytest.fixture(scope="session")
def workplace(tmp_path_factory):
    """A folder with what the pages take as there: data of each kind, an instance, a reward, and two runs."""
    folder = tmp_path_factory.mktemp("printed")
    (folder / "mine.yaml").write_text("base: sflllm\n")
    sizes = {"train": 60, "validation": 16}
    write_rows(
        folder / "rows",
        {part: [{"prompt": f"{part} {i}", "completion": f"it is {i}"} for i in range(n)] for part, n in sizes.items()},
    )
    write_rows(
        folder / "labelled",
        {part: [{"text": f"film number {i}", "label": i % 4} for i in range(n)] for part, n in sizes.items()},
    )
    write_rows(
        folder / "pairs",
        {
            f"{kind}-{part}": [{"prompt": f"{kind} {part} {i}", "chosen": "yes!", "rejected": "no."} for i in range(n)]
            for kind in ("helpful", "harmless")
            for part, n in {**sizes, "test": 8}.items()
        },
    )
    for name in ("traces", "worlds"):
        shutil.copytree(ROOT / "examples" / name, folder / "examples" / name)
    (folder / OWN_FILE).write_text("frage,antwort\n" + "".join(f"{i}?,{i}!\n" for i in range(80)))
    (folder / "INSTANCE.json").write_text(json.dumps(problem_to_json(cell_problem(3, 6))))
    (folder / "my_rewards.py").write_text("def safe(examples, answers):\n    return [len(a) for a in answers]\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for recipe in FIRST_RUNS:
            answer = wavetune(*at_smallest_size(["run", recipe]))
            assert answer.code == 0, answer.err
    return folder


def test_what_runs_elsewhere_has_a_test_there():
    assert all((ROOT / path).exists() for path in ELSEWHERE.values())
    assert {word for command in printed() for word in command.arguments} >= {*ELSEWHERE}


@pytest.mark.parametrize("page", PAGES)
def test_printed_commands_run_to_their_end(page, workplace, tmp_path, monkeypatch):
    """All but the drawing of each point, as each kind of figure is drawn where its own tests look at it."""
    monkeypatch.setattr(Figure, "draw_without_rendering", lambda figure: None)
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **given: Path(path).touch())
    shutil.copytree(workplace, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    wrong = []
    for command, (words, into) in PAGES[page].items():
        answer = wavetune(*words)
        if into:
            Path(into).write_text(answer.out, encoding="utf-8")
        if answer.code != 0:
            last = (answer.err.strip() or answer.out.strip()).splitlines()[-1:]
            wrong.append(f"wavetune {command}\n  ran as {shlex.join(words)}\n  {last}")
    assert not wrong, "\n".join(wrong)
