"""Run a recipe in this process: all clients stacked in one model."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from wavetune.allocation.instance import plan_to_json, problem_to_json
from wavetune.console import given_command
from wavetune.federation.folder_lock import locked
from wavetune.federation.phases import Phase
from wavetune.federation.run_folder import RunFolder
from wavetune.recipe import Recipe, load
from wavetune.records.fields import as_json
from wavetune.records.reading import read_record
from wavetune.records.rounds import Round
from wavetune.records.summary import Sample
from wavetune.records.world import BandShape, BandShapes, Device, ServerInfo, World
from wavetune.runtimes.alignment.phase import Aligning
from wavetune.runtimes.alignment.task import checked_task
from wavetune.runtimes.checkpoint import restore, state_of
from wavetune.runtimes.distilling import Distilling
from wavetune.runtimes.engine import Engine, Observer, Trainer
from wavetune.runtimes.evaluation import evaluate_untouched
from wavetune.runtimes.inputs import keep_inputs
from wavetune.runtimes.phase import UnderWay, declared, play, recorded
from wavetune.runtimes.provenance import now
from wavetune.runtimes.round import train_round
from wavetune.runtimes.samples import answers_of, samples_of
from wavetune.runtimes.saved import Begun, Trained
from wavetune.runtimes.session import Infeasible, Session, build
from wavetune.runtimes.summary import summary_of
from wavetune.runtimes.tuning import Tuning


def run(
    recipe: Recipe, out: Path, observer: Observer, resume: bool = False, engine: Engine | None = None
) -> dict[str, Any] | Infeasible:
    """Run a recipe into a folder, or continue it there; returns the summary. Without an engine all is trained here.

    Raises: RunFolderError if another process is at work in the folder, or it does not fit.
    """
    with locked(out):
        folder = RunFolder.open(out) if resume else None
        if folder is not None:
            recipe = load(out / "recipe.json")
        observer.message(f"loading {recipe.world.model} and {recipe.world.data.source}")
        planned = None if folder is None else folder.read_json("plan.json")
        session = build(recipe, planned, observer.message)
        if isinstance(session, Infeasible):
            return session
        task = checked_task(session)
        with nullcontext(Trainer(train_round)) if engine is None else engine(session, observer.message) as trainer:
            settled = replace(recipe, world=session.recipe.world)
            if folder is None:
                folder = RunFolder.create(out)
                folder.write_json("recipe.json", settled.to_dict())
            keep_inputs(folder, settled, session.data, session.model.folder)
            if planned is None:
                _write_world(folder, session)
            phases: list[Phase] = [Tuning(session, folder, observer, trainer.train_round)]
            if task is not None:
                phases.append(Aligning(session, folder, observer, task, trainer.align))
            first, model = list[Phase](), session.recipe.method.client_model
            if model is not None and model.distillation is not None:
                first.append(Distilling(session, model.distillation))
            running, parts = UnderWay(session, folder, observer.message), session.recipe.method.phases
            further = declared(parts, running, [*first, *phases])
            everything = [*first, *phases, *further]
            done, saved = restore(folder, session, observer.message, recorded(everything, folder))
            state = folder.read_json("state.json", Begun) or _before(folder, session, observer)
            tuned = max(done - sum(phase.rounds for phase in first), 0)
            observer.started(session, min(tuned, phases[0].rounds), state["validation_loss"])
            play(everything, folder, done, saved, recipe.run.checkpoint_every, lambda: state_of(session))
            found = {name: value for phase in phases for name, value in phase.summary().items()}
            told = {part.kind: one.summary() for part, one in zip(parts, further, strict=True)}
            found["further"] = {one.records.removesuffix(".jsonl"): one.summary() for one in first} | told
        return _finish(folder, session, state, found, observer)


def _before(folder: RunFolder, session: Session, observer: Observer) -> dict[str, Any]:
    """What the untouched model does: its validation loss and its answers to the sample prompts."""
    observer.message(f"evaluating the untouched model on {len(session.data.validation)} validation rows")
    evaluation = evaluate_untouched(session)
    state = {
        "evaluation": as_json(evaluation),
        "validation_loss": evaluation.loss,
        "answers": answers_of(session, None),
        "command": given_command(),
        "started": now(),
    }
    folder.write_json("state.json", state)
    return state


def _write_world(folder: RunFolder, session: Session) -> None:
    scenario, data = session.recipe.world.scenario, session.data
    devices = tuple(
        Device(
            client_id=d.client_id,
            name=f"client-{d.client_id:02d}",
            position_m=d.position_m,
            flop_per_s=d.flop_per_s,
            tx_power_max_w=d.tx_power_max_w,
            path_loss_db=d.path_loss_db,
            shadowing_db=d.shadowing_db,
            is_los=d.is_los,
            num_samples=len(data.rows_by_client[d.client_id]),
            domains=data.domains_of(d.client_id),
        )
        for d in session.planner.devices
    )
    bands = (BandShape(band.num_subchannels, band.subchannel_hz) for band in (scenario.bands.main, scenario.bands.fed))
    server = ServerInfo(scenario.server.flop_per_s)
    world = World(scenario.cell_radius_m, devices, BandShapes(*bands), server, scenario.preset)
    folder.write_json("world.json", as_json(world))
    folder.write_json("instance.json", problem_to_json(session.planner.known(0)))
    folder.write_json("plan.json", plan_to_json(session.plan))  # last: where it is missing, a resumed run writes all


def _finish(
    folder: RunFolder, session: Session, state: Mapping[str, Any], found: Mapping[str, Any], observer: Observer
) -> dict[str, Any]:
    observer.message("writing the summary" if not samples_of(session) else "writing sample answers and the summary")
    rounds = [read_record(Round, line) for line in folder.read_rounds(kind=Trained)]
    samples, after = samples_of(session), answers_of(session, folder.path / "adapters")
    told = [
        Sample(e.prompt, e.answer, before, now, e.domain, who)
        for (e, who), before, now in zip(samples, state["answers"], after, strict=True)
    ]
    folder.write_json("samples.json", as_json(told))
    summary = as_json(replace(summary_of(session, rounds, state), **found))
    folder.write_json("summary.json", summary)
    return summary
