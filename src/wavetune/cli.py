"""The command line. Everything heavy is imported inside the commands, so that help answers at once."""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from wavetune.errors import ConfigError, RunFolderError, WavetuneError

if TYPE_CHECKING:
    from wavetune.allocation.plan import Plan
    from wavetune.allocation.problem import Problem
    from wavetune.federation.round_planner import RoundPlanner
    from wavetune.recipe import Recipe
    from wavetune.runtimes.inprocess import Engine

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Plan, train and deploy federated and split-federated fine-tuning of language models over wireless networks.",
)

RecipeName = Annotated[
    str, typer.Argument(metavar="RECIPE", help="Name of a recipe (see `wavetune recipes`) or its JSON file.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Change a field, e.g. run.rounds=10; repeatable."),
]
Data = Annotated[str | None, typer.Option(help="Corpus: a folder or file with JSON lines, or a Hugging Face id.")]
Model = Annotated[str | None, typer.Option(help="Model: a name, a folder, or a Hugging Face id.")]
Seed = Annotated[int | None, typer.Option(help="Seed of every random stream.")]
DeviceName = Annotated[str | None, typer.Option(help="auto, cpu or cuda.")]
RankTable = Annotated[
    Path | None, typer.Option(help="Rounds to target per rank, as `wavetune measure-ranks` writes them.")
]

CodecTable = Annotated[
    Path | None, typer.Option(help="Codecs to choose among at the cut, as `wavetune measure-codecs` writes them.")
]
Emulate = Annotated[bool, typer.Option("--emulate", help="Pace every stream to the rate that the plan gave it.")]
Deadline = Annotated[
    float, typer.Option(min=0.1, help="Seconds a device has to answer before the round goes on without it.")
]

INFEASIBLE, INTERRUPTED = 3, 130


def main() -> None:
    """Entry point: one sentence and exit code 2 for what the user can put right."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        app()
    except WavetuneError as error:
        Console(stderr=True).print(f"wavetune: {error}", highlight=False, markup=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _terminate(*_: object) -> None:
    raise KeyboardInterrupt


def _version(wanted: bool) -> None:
    if wanted:
        from wavetune import __version__

        typer.echo(f"wavetune {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command()
def run(
    recipe: Annotated[str | None, typer.Argument(metavar="RECIPE", help="Name of a recipe, or its JSON file.")] = None,
    settings: Settings = None,
    data: Data = None,
    model: Model = None,
    device: DeviceName = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; runs/RECIPE by default.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out to the same end.")] = False,
    seed: Seed = None,
    rank_table: RankTable = None,
    codec_table: CodecTable = None,
) -> None:
    """Plan, train and report a recipe."""
    changed = [name for name, value in (("--set", settings), ("--data", data), ("--model", model), ("--device", device),
               ("--seed", seed), ("--rank-table", rank_table), ("--codec-table", codec_table))
               if value is not None]  # fmt: skip
    if resume:
        if changed:
            raise ConfigError(f"{changed[0]} does not go with --resume: a run continues with the recipe in its folder")
        folder = out or Path("runs") / _name(recipe)
        _train(None, folder, resume=True)
        return
    chosen = _recipe(_name(recipe), settings, data, model, seed, device, rank_table, codec_table)
    _train(chosen, out or _free_folder(chosen.name), resume=False)


def _name(recipe: str | None) -> str:
    if recipe is None:
        from wavetune.recipes import names

        raise ConfigError("no recipe given; choose one of " + ", ".join(names()))
    return recipe


def _free_folder(name: str, parent: Path = Path("runs")) -> Path:
    folder, number = parent / name, 1
    while folder.exists():
        number += 1
        folder = parent / f"{name}-{number}"
    return folder


def _train(recipe: Recipe | None, folder: Path, resume: bool, engine: Engine | None = None) -> None:
    console, command = Console(highlight=False), "run" if engine is None else "deploy"
    if recipe is not None and (folder / "recipe.json").exists():
        raise RunFolderError(f"{folder} already holds a run; continue it with --resume or choose another --out")
    from wavetune.recipe import load
    from wavetune.runtimes.inprocess import Infeasible
    from wavetune.runtimes.inprocess import run as train
    from wavetune.terminal import RunDisplay

    if recipe is None:
        _require_run(folder)
        recipe = load(folder / "recipe.json")
    try:
        with RunDisplay(console) as display:
            outcome = train(recipe, folder, display, resume, engine)
    except KeyboardInterrupt:
        saved = (folder / "recipe.json").exists()
        again = f"stopped; continue with: wavetune {command} --resume --out {folder}"
        console.print(again if saved else "stopped", soft_wrap=True)
        raise
    if isinstance(outcome, Infeasible):
        console.print(f"no plan exists: {outcome.reason}", markup=False)
        raise typer.Exit(INFEASIBLE)
    _say_goodbye(console, folder, outcome)


def _require_run(folder: Path) -> None:
    if not (folder / "recipe.json").exists():
        raise RunFolderError(f"{folder} holds no run (no recipe.json); start one without --resume")


def _say_goodbye(console: Console, folder: Path, summary: dict[str, Any]) -> None:
    from wavetune.reporting.farewell import last_lines
    from wavetune.reporting.html import write_report

    for line in last_lines(folder, summary, write_report([folder], folder / "report.html")):
        console.print(line, markup=False, soft_wrap=True)


def _recipe(
    name: str,
    settings: list[str] | None,
    data: str | None,
    model: str | None,
    seed: int | None,
    device: str | None = None,
    rank_table: Path | None = None,
    codec_table: Path | None = None,
) -> Recipe:
    from wavetune import recipes
    from wavetune.recipe import load, with_settings

    chosen = load(Path(name)) if name.endswith(".json") else recipes.get(name)
    short = {"world.data.source": data, "world.model": model, "run.seed": seed, "run.device": device}
    assignments = [f"{path}={json.dumps(value)}" for path, value in short.items() if value is not None]
    chosen = with_settings(chosen, [*(settings or []), *assignments])
    if rank_table is not None:
        chosen = replace(chosen, method=replace(chosen.method, rounds_to_target=_read_rank_table(rank_table)))
    if codec_table is not None:
        from wavetune.federation.codec_choice import read_candidates

        method = replace(chosen.method, choose_codecs=True, codec_candidates=read_candidates(codec_table))
        chosen = replace(chosen, method=method)
    return chosen


def _read_rank_table(path: Path) -> dict[int, float]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))["rounds_to_target"]
        return {int(rank): float(rounds) for rank, rounds in values.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"cannot read a rank table from {path} ({error}); `wavetune measure-ranks` writes one"
        ) from None


@app.command()
def plan(
    what: Annotated[str, typer.Argument(metavar="RECIPE|INSTANCE.json", help="A recipe, or a plan instance file.")],
    settings: Settings = None,
    data: Data = None,
    model: Model = None,
    seed: Seed = None,
    rank_table: RankTable = None,
    codec_table: CodecTable = None,
    time_limit: Annotated[
        float | None, typer.Option(min=1e-3, help="Seconds of search; a first plan is always finished.")
    ] = None,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write the plan here; - for standard output.")] = None,
) -> None:
    """Choose subchannels, power, cut and rank for the least delay, without training."""
    from wavetune.allocation.instance import plan_to_json
    from wavetune.federation.run_folder import to_json

    console = Console(highlight=False)
    problem, chosen, note = _planned(what, settings, data, model, seed, rank_table, codec_table, time_limit)
    text = to_json(plan_to_json(chosen), json_out or Path("plan.json"))
    if json_out is not None and str(json_out) == "-":
        typer.echo(text)
    else:
        if json_out is not None:
            _write(json_out, text)
        _show_plan(console, problem, chosen, note)
    if chosen.status == "infeasible":
        raise typer.Exit(INFEASIBLE)


def _planned(
    what: str,
    settings: list[str] | None,
    data: str | None,
    model: str | None,
    seed: int | None,
    rank_table: Path | None,
    codec_table: Path | None,
    time_limit_s: float | None,
) -> tuple[Problem, Plan, str]:
    if what.endswith(".json") and not _is_recipe_file(Path(what)):
        from wavetune.allocation.instance import read_instance
        from wavetune.federation.planning import Optimal

        problem = read_instance(what)
        return problem, Optimal(time_limit_s).plan(problem, seed or 0), ""
    from wavetune.runtimes.world import planner_of

    if time_limit_s is not None:
        settings = [*(settings or []), f"method.planner.time_limit_s={time_limit_s!r}"]
    planner, counted = planner_of(_recipe(what, settings, data, model, seed, None, rank_table, codec_table))
    note = f"{planner.statistics.tokens:.1f} tokens a sample ({counted})" + (planner.chosen and f"; {planner.chosen}")
    problem, chosen = planner.problem(0), planner.first_plan()
    notes = (note, _energy_note(planner, problem, chosen), _deadline_note(planner, problem, chosen))
    return problem, chosen, "; ".join(filter(None, notes))


def _deadline_note(planner: RoundPlanner, problem: Problem, chosen: Plan) -> str:
    """How many clients could meet the deadline of a selection at most."""
    from wavetune.allocation.selection import most_possible
    from wavetune.federation.selection import Deadline

    selection, decided = planner.method.selection, {*zip(chosen.cut_K.tolist(), chosen.rank_K.tolist(), strict=True)}
    if not isinstance(selection, Deadline) or len(decided) != 1:
        return ""
    most = most_possible(problem, *decided.pop(), selection.round_deadline_s)
    return f"at this cut and rank no more than {most} clients can end a round by the deadline"


def _energy_note(planner: RoundPlanner, problem: Problem, chosen: Plan) -> str:
    """The energy of a plan and what no plan as fast can go below, where the planner weighs energy."""
    from wavetune.allocation.energy_bound import least_energy_j
    from wavetune.allocation.energy_power import rounds_of
    from wavetune.allocation.selection import taking_part
    from wavetune.federation.planning import Optimal
    from wavetune.reporting.format import joules

    if not isinstance(planner.method.planner, Optimal) or planner.method.planner.energy_terms.idle:
        return ""
    if chosen.status != "ok":
        return ""
    spent_j = rounds_of(problem, chosen.rank_K) * chosen.energy.total_j
    per_client = problem.cut_per_client or problem.rank_slack is not None
    if per_client or len({*chosen.cut_K.tolist()}) > 1 or len({*chosen.rank_K.tolist()}) > 1:
        return f"{joules(spent_j)} to the target"
    bound_j = min(spent_j, least_energy_j(taking_part(problem, chosen)[0], chosen.delay_s))
    return f"{joules(spent_j)} to the target, no plan as fast spends less than {joules(bound_j)}"


@app.command("trade-off")
def trade_off(
    what: Annotated[str, typer.Argument(metavar="RECIPE|INSTANCE.json", help="A recipe, or a plan instance file.")],
    points: Annotated[int, typer.Option(min=2, max=200, help="Plans on the curve.")] = 10,
    out: Annotated[Path | None, typer.Option(help="Folder; trade-off/NAME by default.")] = None,
    settings: Settings = None,
    data: Data = None,
    model: Model = None,
    seed: Seed = None,
    rank_table: RankTable = None,
) -> None:
    """Draw the delay-energy curve: the fewest joules to the target at each delay, from the least delay on."""
    import shlex

    from wavetune.allocation.trade_off import trade_off as draw_curve
    from wavetune.federation.run_folder import ELSEWHERE, explained, to_json
    from wavetune.reporting.format import seconds
    from wavetune.reporting.trade_off import save_figure, table, to_dict

    problem, name = _problem(what, settings, data, model, seed, rank_table)
    folder = out or Path("trade-off") / name
    curve = draw_curve(problem, points)
    values = to_dict(curve, shlex.join(["wavetune", *sys.argv[1:]]))
    _write(folder / "trade-off.json", to_json(values, folder / "trade-off.json", indent=1))
    console = Console(highlight=False)
    if not curve.points:
        console.print(f"no plan exists: {curve.reason}", markup=False)
        raise typer.Exit(INFEASIBLE)
    console.print(table(curve))
    with explained(folder, ELSEWHERE):
        save_figure(curve, folder / "figure")
    for line in (
        "delay, energy: to the target loss; unproved: share of the energy not proved necessary; s per J: what a joule "
        "saved costs on the way from the plan before, a value for method.planner.energy_weight_s_per_j",
        f"no plan is faster than {seconds(curve.points[0].plan.lower_bound_s)}",
        f"wrote trade-off.json, figure.svg and figure.png into {folder}",
    ):
        console.print(line, markup=False, soft_wrap=True)


def _problem(
    what: str,
    settings: list[str] | None,
    data: str | None,
    model: str | None,
    seed: int | None,
    rank_table: Path | None,
) -> tuple[Problem, str]:
    if what.endswith(".json") and not _is_recipe_file(Path(what)):
        from wavetune.allocation.instance import read_instance

        return read_instance(what), Path(what).stem
    from wavetune.runtimes.world import planner_of

    recipe = _recipe(what, settings, data, model, seed, None, rank_table)
    if isinstance(getattr(recipe.method.topology, "cut", None), tuple) or isinstance(recipe.method.lora.rank, tuple):
        raise ConfigError(
            "the delay-energy curve has one cut and one rank for all clients; set method.topology.cut and "
            "method.lora.rank to one number or to null, which leaves them to the planner"
        )
    return planner_of(recipe)[0].problem(0), recipe.name


def _is_recipe_file(path: Path) -> bool:
    try:
        return "world" in json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def _show_plan(console: Console, problem: Problem, chosen: Plan, note: str) -> None:
    from wavetune.allocation.describe import bottleneck, sensitivities
    from wavetune.reporting.format import percent, seconds
    from wavetune.terminal import plan_table

    if chosen.status == "infeasible":
        console.print(f"no plan exists: {chosen.reason}", markup=False)
        return
    console.print(plan_table(problem, chosen))
    of_main = "W, Mbit/s: main band" if chosen.server_share_K is None else "W: main band; share: of the server"
    lines = [
        f"subch: subchannels of the main + fed band; {of_main}; fwd, up, bwd: one local step; "
        "fed: adapter upload, once a round; J: a round",
        f"total delay to the target {seconds(chosen.delay_s)}, {seconds(chosen.phases.round_s)} a round of "
        f"{problem.local_steps} local steps" + (f"; {note}" if note else ""),
        bottleneck(problem, chosen).sentence,
    ]
    if chosen.active_K is not None:
        lines.insert(0, f"{int(chosen.active_K.sum())} of {problem.num_clients} clients take part in this round")
    if chosen.lower_bound_s > 0:
        lines.append(f"no plan is below {seconds(chosen.lower_bound_s)}: the gap is at most {percent(chosen.gap)}")
    helpful = [s.sentence for s in sensitivities(problem, chosen) if s.saving > 5e-4]
    if helpful:
        lines.append("what would help: " + ", ".join(helpful[:3]))
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)


def _write(path: Path, text: str) -> None:
    from wavetune.federation.run_folder import ELSEWHERE, write_whole

    write_whole(path, text + "\n", ELSEWHERE)


@app.command()
def recipes() -> None:
    """List the recipes."""
    from wavetune.recipes import names, title

    width = max(map(len, names()))
    for name in names():
        typer.echo(f"{name:{width}s}  {title(name)}")


@app.command()
def show(
    recipe: RecipeName, settings: Settings = None, data: Data = None, model: Model = None, seed: Seed = None
) -> None:
    """Print a recipe with all its fields, as JSON that `wavetune run` takes."""
    from wavetune.recipe import to_dict

    typer.echo(json.dumps(to_dict(_recipe(recipe, settings, data, model, seed)), indent=2))


@app.command()
def sweep(
    recipe: RecipeName,
    over: Annotated[
        str,
        typer.Option(
            metavar="FIELD=V1,V2,...",
            help="What to vary: bandwidth_hz, tx_power_max_dbm, client_flop_per_s, server_flop_per_s, num_clients, "
            "cell_radius_m, or the path of any recipe field.",
        ),
    ],
    seeds: Annotated[int, typer.Option(help="Draws of devices and channel to average over.")] = 10,
    methods: Annotated[
        str | None,
        typer.Option(
            help="Planners to compare, separated by commas: proposed, greedy, uniform-power, random-rank, random-cut, "
            "random-subchannels, all-random, bound; all by default."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder; sweeps/RECIPE-FIELD by default. Run again to go on.")
    ] = None,
    settings: Settings = None,
    jobs: Annotated[int | None, typer.Option(help="Processes; one a core by default.")] = None,
) -> None:
    """Plan over a range of one field with several planners and seeds: figure, table and reading, no training."""
    import shlex

    from wavetune.sweep.axis import axis_of
    from wavetune.sweep.display import SweepDisplay
    from wavetune.sweep.methods import methods_of
    from wavetune.sweep.run import Sweep
    from wavetune.sweep.run import run as plan_all
    from wavetune.sweep.summary import summarise
    from wavetune.sweep.workers import cores
    from wavetune.sweep.write import FILES, write_outcome

    base = _recipe(recipe, settings, None, None, None)
    planned = Sweep(base, axis_of(over, base), seeds, methods_of(methods))
    if jobs is not None and jobs < 1:
        raise ConfigError(f"--jobs is {jobs} but must be at least 1")
    folder = out or Path("sweeps") / f"{base.name}-{planned.axis.field}"
    console = Console(highlight=False)
    try:
        with SweepDisplay(console) as display:
            records = plan_all(planned, folder, jobs or cores(), display.progress)
    except KeyboardInterrupt:
        console.print(f"stopped; the same command goes on from {folder}", markup=False, soft_wrap=True)
        raise
    console.print(
        write_outcome(summarise(planned, records), folder, shlex.join(["wavetune", *sys.argv[1:]])),
        f"wrote {', '.join(FILES)} into {folder}",
        sep="\n",
        markup=False,
        soft_wrap=True,
    )
    if all(record["status"] == "infeasible" for record in records):
        raise typer.Exit(INFEASIBLE)


@app.command()
def compare(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe with baselines, such as pwff_task.")],
    settings: Settings = None,
    data: Data = None,
    model: Model = None,
    device: DeviceName = None,
    seed: Seed = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds a method is run with.")] = 3,
    methods: Annotated[str | None, typer.Option(help="Baselines to run, with commas; all by default.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder; runs/RECIPE-comparison by default. Run again to go on.")
    ] = None,
) -> None:
    """Run a recipe and its baselines on the same data, model and seeds, and lay them side by side."""
    from rich.table import Column, Table

    from wavetune.comparison import compare as run_all
    from wavetune.comparison import rows_of
    from wavetune.reporting.html import write_report
    from wavetune.terminal import RunDisplay

    chosen, console = _recipe(recipe, settings, data, model, seed, device), Console(highlight=False)
    folder, wanted = out or Path("runs") / f"{chosen.name}-comparison", methods.split(",") if methods else None
    try:
        with RunDisplay(console) as display:
            found = run_all(chosen, wanted, seeds, folder, display.message, display)
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on where it stopped", soft_wrap=True)
        raise
    for title, differences in (("means", False), ("differences", True)):
        heading, *rows = rows_of(found, differences)
        table = Table(heading[0], *(Column(name, justify="right") for name in heading[1:]), show_lines=True)
        table.title = f"{chosen.name}: {title} over {seeds} seed{'s' * (seeds > 1)}, 95 % intervals"
        for row in rows:
            table.add_row(*row)
        if len(heading) > 1:
            console.print(table)
    first = [folder / f"{method}-seed{chosen.run.seed}" for method in found["methods"]]
    report = write_report([path for path in first if path.exists()], folder / "report.html")
    console.print(
        f"All numbers: {folder / 'comparison.json'}", f"Page: {folder / 'comparison.md'}", sep="\n", soft_wrap=True
    )
    console.print(f"Side by side, first seed: {report}", soft_wrap=True)


@app.command("measure-ranks")
def measure_ranks(
    recipe: RecipeName,
    ranks: Annotated[str, typer.Option(help="Ranks to train at, separated by commas.")] = "1,2,4,8",
    target_loss: Annotated[
        float | None, typer.Option(help="Validation loss to reach; by default the least that every rank reached.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Repeat with this many seeds and average.")] = 1,
    out: Annotated[Path, typer.Option(help="Table to write.")] = Path("rank-table.json"),
    settings: Settings = None,
    data: Data = None,
    model: Model = None,
    device: DeviceName = None,
    seed: Seed = None,
) -> None:
    """Train at each rank and write how many rounds each needs to a target loss, for the planner."""
    from wavetune.measure_ranks import measure

    chosen = _recipe(recipe, settings, data, model, seed, device)
    table = measure(chosen, _ranks(ranks), target_loss, seeds, Console(highlight=False))
    _write(out, json.dumps(table, indent=1))
    typer.echo(f"wrote {out}; plan with it: wavetune plan {recipe} --rank-table {out}")


@app.command("measure-codecs")
def measure_codecs(
    recipe: RecipeName,
    codecs: Annotated[
        str,
        typer.Option(help="Codecs at the cut, separated by commas: KIND[:SETTING=VALUE], or one each way as UP/DOWN."),
    ] = "fp32,bf16,int8",
    seeds: Annotated[int, typer.Option(min=1, help="Repeat with this many seeds and average.")] = 1,
    out: Annotated[Path, typer.Option(help="Table to write.")] = Path("codec-table.json"),
    settings: Settings = None,
    data: Data = None,
    model: Model = None,
    device: DeviceName = None,
    seed: Seed = None,
) -> None:
    """Train with each codec at the cut and write what it costs in rounds to a target loss, for the planner."""
    from wavetune.measure_codecs import candidates_of, measure

    chosen, candidates = _recipe(recipe, settings, data, model, seed, device), candidates_of(codecs)
    table = measure(chosen, candidates, seeds, Console(highlight=False))
    _write(out, json.dumps(table, indent=1))
    typer.echo(f"wrote {out}; plan with it: wavetune plan {recipe} --codec-table {out}")


def _ranks(text: str) -> list[int]:
    try:
        ranks = [int(part) for part in text.split(",")]
    except ValueError:
        ranks = []
    if not ranks or min(ranks) < 1:
        raise ConfigError(
            f"--ranks is {text!r} but must be whole numbers of at least 1 separated by commas, such as 1,2,4,8"
        )
    return sorted(set(ranks))


@app.command("train-reward")
def train_reward(
    kind: Annotated[str | None, typer.Option(help="Which preference: helpful or harmless.")] = None,
    data: Annotated[
        str | None, typer.Option(help="Pairs: a folder or file with JSON lines; concierge by default.")
    ] = None,
    model: Model = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write; rewards/KIND by default.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the training in --out to the same end.")] = False,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps at most.")] = None,
    pairs_per_step: Annotated[int | None, typer.Option(min=1, help="Pairs of a step.")] = None,
    train_pairs: Annotated[int | None, typer.Option(min=1, help="Pairs to train on; all by default.")] = None,
    rank: Annotated[int | None, typer.Option(min=1, help="Rank of the LoRA.")] = None,
    learning_rate: Annotated[float | None, typer.Option(min=1e-9, help="Largest learning rate.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=8, help="Longest prompt with its answer.")] = None,
    seed: Seed = None,
    device: DeviceName = None,
) -> None:
    """Train a reward model on preference pairs and measure it on held-out ones."""
    training = {"model": model, "steps": steps, "pairs_per_step": pairs_per_step, "train_pairs": train_pairs,
                "rank": rank, "learning_rate": learning_rate, "max_tokens": max_tokens}  # fmt: skip
    changed = {name: value for name, value in training.items() if value is not None}
    given = [*changed, *(name for name, value in (("kind", kind), ("data", data), ("seed", seed)) if value is not None)]
    if resume and given:
        option = given[0].replace("_", "-")
        raise ConfigError(f"--{option} does not go with --resume: a training continues with the settings in its folder")
    if resume and out is None:
        raise ConfigError("--resume needs --out, the folder of the training to continue")
    from wavetune.runtimes.train_reward import begin_training, continue_training
    from wavetune.terminal import RewardDisplay

    console = Console(highlight=False)
    folder = out or _free_folder(str(kind), Path("rewards"))
    try:
        with RewardDisplay(console) as display:
            if resume:
                about = continue_training(folder, display, device or "auto")
            else:
                about = begin_training(kind, data or "concierge", changed, folder, display, seed or 0, device or "auto")
    except KeyboardInterrupt:
        saved = (folder / "training.json").exists()
        go_on = f"; continue with: wavetune train-reward --resume --out {folder}" if saved else ""
        console.print(f"stopped{go_on}", markup=False, soft_wrap=True)
        raise
    low, high = about["accuracy_interval_95"]
    pairs, part = about["data"]["test_pairs"], about["tested_on"]
    lines = (
        f"{about['kind']} reward model: {about['accuracy']:.1%} of {pairs} {part} pairs right "
        f"(95% interval {low:.1%} to {high:.1%}), best of {about['steps']} steps at step {about['best_step']}, "
        f"{about['seconds']:.0f} s, seed {about['seed']}",
        f"Model: {about['model']} ({about['model_note']})",
        f"wrote {folder}: reward.json, head.safetensors and adapter (PEFT format)",
    )
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)


@app.command()
def deploy(
    recipe: Annotated[str | None, typer.Argument(metavar="RECIPE", help="Name of a recipe, or its JSON file.")] = None,
    devices: Annotated[int | None, typer.Option(min=1, help="Devices; as many as the recipe's cell has.")] = None,
    settings: Settings = None,
    data: Data = None,
    model: Model = None,
    device: DeviceName = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; runs/RECIPE by default.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out to the same end.")] = False,
    seed: Seed = None,
    emulate: Emulate = False,
    deadline: Deadline = 120.0,
) -> None:
    """Run a split recipe with its servers and every device as processes of this machine, over TLS."""
    from wavetune.recipe import load
    from wavetune.runtimes.launch import deploy as start

    console = Console(highlight=False)
    if resume:
        folder = out or Path("runs") / _name(recipe)
        _require_run(folder)
        chosen, known = None, load(folder / "recipe.json")
    else:
        count = [] if devices is None else [f"world.scenario.population.num_clients={devices}"]
        chosen = known = _recipe(_name(recipe), [*(settings or []), *count], data, model, seed, device)
        folder = out or _free_folder(chosen.name)
    options = [*(["--emulate"] if emulate else []), "--deadline", str(deadline)]
    code = start(chosen, folder, known.world.scenario.population.num_clients, options, console.print)
    if code == 0:
        console.print(f"Devices:  {folder / 'devices'} (what each kept, and its log)", markup=False, soft_wrap=True)
    raise typer.Exit(code)


@app.command()
def serve(
    recipe: Annotated[str | None, typer.Argument(metavar="RECIPE", help="Name of a recipe, or its JSON file.")] = None,
    certificates: Annotated[
        Path, typer.Option(help="The servers' folder, as `wavetune certificates` writes it.")
    ] = Path("certificates/server"),
    address: Annotated[str, typer.Option(help="HOST:PORT to listen at.")] = "0.0.0.0:7443",
    public: Annotated[
        str | None, typer.Option(help="HOST:PORT under which devices reach it, where that is another.")
    ] = None,
    settings: Settings = None,
    data: Data = None,
    model: Model = None,
    device: DeviceName = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; runs/RECIPE by default.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out to the same end.")] = False,
    seed: Seed = None,
    emulate: Emulate = False,
    deadline: Deadline = 120.0,
    patience: Annotated[float, typer.Option(min=1, help="Seconds to wait for the devices to come.")] = 600.0,
    port_file: Annotated[Path | None, typer.Option(hidden=True)] = None,
    with_parent: Annotated[bool, typer.Option("--with-parent", hidden=True)] = False,
) -> None:
    """Run the servers of a split recipe; its devices come from elsewhere."""
    if with_parent:
        from wavetune.runtimes.launch import exit_with_parent

        exit_with_parent()
    from wavetune.data_plane.certificates import read_identity
    from wavetune.runtimes.deployed import Deployment, engine

    deployment = Deployment(address, read_identity(certificates), public, patience, deadline, emulate)
    folder = out or (Path("runs") / _name(recipe) if resume else _free_folder(_name(recipe)))
    if resume:
        _require_run(folder)
    chosen = None if resume else _recipe(_name(recipe), settings, data, model, seed, device)
    _train(chosen, folder, resume, engine(deployment, folder, port_file))


@app.command("device")
def join_as_device(
    server: Annotated[str, typer.Argument(metavar="HOST:PORT", help="Where the servers listen.")],
    certificates: Annotated[
        Path, typer.Option(help="This device's folder, as `wavetune certificates` writes it; says which client it is.")
    ],
    state: Annotated[Path | None, typer.Option(help="Folder in which it keeps its state between rounds.")] = None,
    patience: Annotated[float, typer.Option(min=1, help="Seconds to wait for servers that are away.")] = 600.0,
    with_parent: Annotated[bool, typer.Option("--with-parent", hidden=True)] = False,
) -> None:
    """Take part in a deployed run as one of its devices."""
    if with_parent:
        from wavetune.runtimes.launch import exit_with_parent

        exit_with_parent()
    from wavetune.data_plane.certificates import read_identity
    from wavetune.runtimes.device import take_part

    say = Console(highlight=False).print
    say(take_part(server, read_identity(certificates), state, patience, say))


@app.command()
def certificates(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to write; one folder for each party.")],
    devices: Annotated[int, typer.Option(min=1, help="How many devices.")],
    host: Annotated[
        list[str] | None, typer.Option(help="Name or address under which devices reach the servers; repeatable.")
    ] = None,
) -> None:
    """Make the certificates of a deployed run: an authority, the servers' and one for each device."""
    from wavetune.data_plane.certificates import write_certificates

    write_certificates(folder, devices, host or [])
    typer.echo(f"wrote {folder}/server and {folder}/device-00 to device-{devices - 1:02d}: give each party its own")


@app.command()
def report(
    run_dirs: Annotated[
        list[Path], typer.Argument(metavar="RUN_DIR...", help="One run folder, or several to compare.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Page to write; RUN_DIR/report.html or comparison.html by default.")
    ] = None,
    figures: Annotated[Path | None, typer.Option(help="Also save each run's figures as PNG and SVG here.")] = None,
    tensorboard: Annotated[Path | None, typer.Option(help="Also write scalars for TensorBoard here.")] = None,
) -> None:
    """Write the report of a run, or of several side by side."""
    from wavetune.reporting import save_figures
    from wavetune.reporting.html import write_report
    from wavetune.reporting.tensorboard import write_tensorboard

    default = run_dirs[0] / "report.html" if len(run_dirs) == 1 else Path("comparison.html")
    typer.echo(f"wrote {write_report(run_dirs, out or default)}")
    for run_dir in run_dirs:
        if figures is not None:
            save_figures(run_dir, figures / run_dir.name)
        if tensorboard is not None:
            write_tensorboard(run_dir, tensorboard / run_dir.name)


@app.command()
def generate(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A run folder.")],
    prompt: Annotated[str, typer.Option(help="What the model is given.")],
    client: Annotated[
        int | None, typer.Option(min=0, help="Use this client's adapter instead of the global one.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 64,
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the likeliest token each time.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of the sampling.")] = 0,
    base: Annotated[bool, typer.Option("--base", help="Answer with the untouched model.")] = False,
) -> None:
    """Answer a prompt with a trained adapter."""
    from wavetune.runtimes.answer import answer

    typer.echo(answer(run_dir, prompt, client, base, max_new_tokens, temperature, seed))


if __name__ == "__main__":
    main()
