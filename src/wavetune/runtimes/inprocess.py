"""Run a recipe in this process: all clients stacked in one model."""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from wavetune.allocation.instance import plan_to_json, problem_to_json
from wavetune.console import given_command
from wavetune.data.examples import Example
from wavetune.data.templates import prompt_ids
from wavetune.errors import RunFolderError
from wavetune.federation.account import Accountant
from wavetune.federation.cohort import StepResult
from wavetune.federation.folder_lock import locked
from wavetune.federation.messages import adapter_spec
from wavetune.federation.run_folder import ALIGNMENT, RunFolder, explained
from wavetune.models.adapter_folder import save_adapter_folder
from wavetune.models.generate import generate, load_for_generation
from wavetune.models.lora import AdapterSite, LoraPair
from wavetune.recipe import Recipe, load, to_dict
from wavetune.records.alignment import AlignmentInfo, AlignmentStep
from wavetune.records.fields import UNKNOWN, as_json, total
from wavetune.records.reading import read_record
from wavetune.records.rounds import Judged, Round, RoundPrivacy
from wavetune.records.summary import (
    Aggregation,
    Change,
    DataInfo,
    Judgement,
    ModelInfo,
    PlanInfo,
    PrivacyInfo,
    Sample,
    Summary,
    Trainable,
)
from wavetune.records.world import BandShape, BandShapes, Device, ServerInfo, World
from wavetune.runtimes import aligning
from wavetune.runtimes.aligning import Stage, Task
from wavetune.runtimes.evaluation import evaluate, evaluate_untouched
from wavetune.runtimes.inputs import keep_inputs
from wavetune.runtimes.outcome import RoundOutcome
from wavetune.runtimes.provenance import commit, hardware, now, versions
from wavetune.runtimes.round import StepDone, train_round
from wavetune.runtimes.saved import Begun, HeldOut, Trained
from wavetune.runtimes.session import Infeasible, Session, build, client_factors


class Observer(Protocol):
    """What watches a run: progress on a terminal, a log, a test."""

    def message(self, text: str) -> None:
        """Something worth a line happened."""

    def started(self, session: Session, rounds_done: int, before: float) -> None:
        """Everything is loaded and planned."""

    def step(self, round_index: int, step: int, result: StepResult) -> None:
        """A local step is done."""

    def round(self, record: Round) -> None:
        """A round is done and saved."""

    def aligned(self, record: AlignmentStep, steps: int) -> None:
        """A step of alignment, of so many, is done and saved."""


TrainRound = Callable[[Session, int, StepDone, Callable[[], None] | None], RoundOutcome]
BeginAlignment = Callable[[Session, Task, Path, Mapping[str, torch.Tensor], Callable[[str], None]], Stage]


@dataclass(frozen=True)
class Trainer:
    """What trains the rounds of a session and aligns its clients: this process, where nothing else is named."""

    train_round: TrainRound
    begin_alignment: BeginAlignment = aligning.begin


Engine = Callable[[Session, Callable[[str], None]], AbstractContextManager[Trainer]]
"""What gives a session its trainer; it may exchange the session's parts for ones whose other half is elsewhere."""


def run(
    recipe: Recipe, out: Path, observer: Observer, resume: bool = False, engine: Engine | None = None
) -> dict[str, Any] | Infeasible:
    """Run a recipe into a folder, or continue it there; returns the summary. Without an engine all is trained here.

    Raises: RunFolderError if another process is at work in the folder, or it does not fit.
    """
    with locked(out):
        return _run(recipe, out, observer, resume, engine)


def _run(
    recipe: Recipe, out: Path, observer: Observer, resume: bool, engine: Engine | None
) -> dict[str, Any] | Infeasible:
    folder = RunFolder.open(out) if resume else None
    if folder is not None:
        recipe = load(out / "recipe.json")
    observer.message(f"loading {recipe.world.model} and {recipe.world.data.source}")
    planned = None if folder is None else folder.read_json("plan.json")
    session = build(recipe, planned, observer.message)
    if isinstance(session, Infeasible):
        return session
    if recipe.method.alignment is not None:
        aligning.check(session, recipe.method.alignment)
    with nullcontext(Trainer(train_round)) if engine is None else engine(session, observer.message) as trainer:
        if folder is None:
            folder = RunFolder.create(out)
            folder.write_json("recipe.json", to_dict(replace(recipe, world=session.recipe.world)))
        keep_inputs(folder, session.data, session.model.folder)
        if planned is None:
            _write_world(folder, session)
        done, saved = _restore(folder, session)
        rounds_done = min(done, recipe.run.rounds)
        state = folder.read_json("state.json", Begun) or _before(folder, session, observer)
        observer.started(session, rounds_done, state["validation_loss"])
        for index in range(rounds_done, recipe.run.rounds):
            _one_round(folder, session, index, observer, trainer.train_round)
        if recipe.method.alignment is not None:
            begin = trainer.begin_alignment
            state = {**state, "alignment": _align(folder, session, done - rounds_done, saved, observer, begin)}
    return _finish(folder, session, state, observer)


def _align(
    folder: RunFolder,
    session: Session,
    steps_done: int,
    saved: Mapping[str, torch.Tensor],
    observer: Observer,
    begin: BeginAlignment,
) -> AlignmentInfo:
    """The second stage; returns its summary."""
    recipe = session.recipe
    observer.message("aligning every client to its owner's wishes")
    task = aligning.task_of(recipe, session.data, session.tokenizer)
    stage = begin(session, task, folder.path / "rewards", saved, observer.message)
    folder.keep_rounds(steps_done, ALIGNMENT)
    steps, every = task.settings.learning.steps, task.settings.evaluate_every
    if folder.read_json("alignment_before.json") is None:
        _, found = stage.advance(steps_done, evaluate=True)
        assert found is not None
        folder.write_json("alignment_before.json", as_json(aligning.held_out_of(found)))
    before = aligning.from_json(folder.read_json("alignment_before.json", HeldOut))
    for step in range(steps_done, steps):
        started, last = time.perf_counter(), step + 1 == steps
        done, found = stage.advance(step + 1, evaluate=last or (step + 1) % every == 0)
        record = AlignmentStep(
            step=step,
            metrics=done.metrics,
            charged=aligning.charge(session, task, done.metrics),
            wall_s=time.perf_counter() - started,
            evaluation={} if found is None else aligning.by_name(found, task.lambdas, before.scale()),
            lost=done.lost,
            measured=done.measured,
        )
        if last and found is not None:
            folder.write_json("alignment_after.json", as_json(aligning.held_out_of(found)))
            _export(folder, session, session.server.current, {} if session.elsewhere else _clients_models(session))
        folder.append_round(as_json(record), ALIGNMENT)
        if last or (step + 1) % recipe.run.checkpoint_every == 0:
            folder.save_checkpoint(recipe.run.rounds + step + 1, _state(session) | stage.state())
        observer.aligned(record, steps)
    ended = folder.read_json("alignment_after.json", HeldOut)
    return aligning.summary(task, before, before if ended is None else aligning.from_json(ended))


def _clients_models(session: Session) -> dict[int, dict[str, LoraPair]]:
    """Every client's adapters as they stand now."""
    return {
        client: client_factors(session.cohort.bank, client) for client in range(session.cohort.placement.num_clients)
    }


def _one_round(folder: RunFolder, session: Session, index: int, observer: Observer, train: TrainRound) -> None:
    settings = session.recipe.run
    last = index + 1 == settings.rounds
    personal: dict[int, dict[str, LoraPair]] = {}

    def keep_personal() -> None:
        personal.update(_clients_models(session))

    # where clients have models of their own, these hold what all share after the mixing
    before_mixing = last and not session.central and not session.personal
    outcome = train(session, index, observer.step, keep_personal if before_mixing else None)
    if last and session.personal and not session.elsewhere:
        keep_personal()
    scores = None if outcome.witness is None else outcome.witness.scores
    due = settings.evaluates_after(index)
    record = outcome.record(evaluate(session, outcome.mixed.factors, index, scores) if due else None)
    if last:
        _export(folder, session, outcome.mixed.factors, personal)
    session.settle(record.charged)
    folder.append_round(as_json(record))
    if last or (index + 1) % settings.checkpoint_every == 0:
        folder.save_checkpoint(index + 1, _state(session))
    observer.round(record)


def _state(session: Session) -> dict[str, torch.Tensor]:
    bank, state = session.cohort.bank, dict[str, torch.Tensor]()
    for side, stacks in (("clients", bank.local), ("server", bank.shared)):
        for name, pair in stacks.items():
            state[f"adapter.{side}.{name}.A"], state[f"adapter.{side}.{name}.B"] = pair
    optimiser, server = session.cohort.optimiser.state(), session.server.state()
    state |= {f"optimiser.{name}": value for name, value in optimiser.items()}
    schedule = {f"schedule.{name}": torch.from_numpy(values) for name, values in session.schedule.items()}
    return state | {f"server.{name}": value for name, value in server.items()} | schedule


@torch.no_grad()
def _restore(folder: RunFolder, session: Session) -> tuple[int, dict[str, torch.Tensor]]:
    """Load the newest checkpoint; returns the rounds (and steps of alignment) done, and the checkpoint.

    Later records are dropped, their rounds run again.
    """
    checkpoint = folder.load_checkpoint()
    done, saved = checkpoint if checkpoint is not None else (0, {})
    rounds_done = min(done, session.recipe.run.rounds)
    records = folder.read_rounds(kind=Trained)
    if len(records) < rounds_done:
        raise RunFolderError(f"{folder.path} has a checkpoint of round {rounds_done} but {len(records)} round records")
    folder.keep_rounds(rounds_done)
    for name, tensor in _state(session).items():
        if not rounds_done or not name.startswith("adapter."):
            continue
        if name not in saved or saved[name].shape != tensor.shape:
            raise RunFolderError(f"the checkpoint in {folder.path} does not fit its recipe ({name}); start a new run")
        tensor.copy_(saved[name])
    for part, target in (("optimiser.", session.cohort.optimiser), ("server.", session.server)):
        target.load_state({name.removeprefix(part): t for name, t in saved.items() if name.startswith(part)})
    for name in session.schedule.keys() & {n.removeprefix("schedule.") for n in saved if n.startswith("schedule.")}:
        session.schedule[name] = saved[f"schedule.{name}"].numpy()
    return done, saved


def _before(folder: RunFolder, session: Session, observer: Observer) -> dict[str, Any]:
    """What the untouched model does: its validation loss and its answers to the sample prompts."""
    observer.message(f"evaluating the untouched model on {len(session.data.validation)} validation rows")
    evaluation = evaluate_untouched(session)
    state = {
        "evaluation": as_json(evaluation),
        "validation_loss": evaluation.loss,
        "answers": _answers(session, None),
        "command": given_command(),
        "started": now(),
    }
    folder.write_json("state.json", state)
    return state


def _samples(session: Session) -> list[tuple[Example, int | None]]:
    """Validation examples of different domains to generate from, and who answers.

    That is the one model of all clients (None) or, where they have models of their own, who knows the domain best.
    Nobody does where these are elsewhere.
    """
    chosen, seen = list[Example](), set[str]()
    nobody = bool(session.data.classes) or (session.personal and session.elsewhere)
    examples = [] if nobody else session.data.corpus.validation
    for example in sorted(examples, key=lambda e: e.domain in seen or seen.add(e.domain) or False):
        chosen.append(example)
        if len(chosen) == session.recipe.run.samples:
            break
    chosen = chosen[: session.recipe.run.samples]
    if not session.personal:
        return [(example, None) for example in chosen]
    rows_K = [session.data.domains_of(client) for client in range(len(session.data.rows_by_client))]
    return [(e, max(range(len(rows_K)), key=lambda k: rows_K[k].get(e.domain, 0))) for e in chosen]


def adapter_name(client: int | None) -> str:
    """Folder under `adapters` of a client's model, or of the one that all share."""
    return "global" if client is None else f"client-{client:02d}"


def _answers(session: Session, adapters: Path | None) -> list[str]:
    """Answers to the sample prompts, by the untouched model or by those under `adapters`."""
    samples, settings = _samples(session), session.recipe.run
    template, tokenizer = session.recipe.world.data.template, session.tokenizer
    answers = dict[int, str]()
    for who in sorted({client for _, client in samples}, key=str):
        folder = None if adapters is None else adapters / adapter_name(who)
        model = load_for_generation(session.model.folder, folder, str(session.cohort.backbone.device))
        asked = [i for i, (_, client) in enumerate(samples) if client == who]
        positions = getattr(model.config, "max_position_embeddings", None)
        room = None if positions is None else max(2, positions - settings.sample_tokens)
        prompts = prompt_ids([samples[i][0] for i in asked], tokenizer, template, room)
        texts = generate(model, tokenizer, prompts, settings.sample_tokens, ends=session.data.ends)
        answers |= dict(zip(asked, texts, strict=True))
    return [answers[i] for i in range(len(samples))]


def _export(
    folder: RunFolder, session: Session, factors: dict[str, LoraPair], personal: Mapping[int, dict[str, LoraPair]]
) -> None:
    bank, base = session.cohort.bank, str(session.model.folder)
    adapters = folder.path / "adapters"
    named = {"global": factors} if factors else {}
    named |= {adapter_name(client): own for client, own in personal.items()}
    backbone, data = session.cohort.backbone, session.data
    with explained(adapters):
        for name, own in named.items():
            save_adapter_folder(adapters / name, own, backbone, bank.scale, base, data.classes, ends=data.ends)


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
    world = World(scenario.cell_radius_m, devices, BandShapes(*bands), ServerInfo(scenario.server.flop_per_s))
    folder.write_json("world.json", as_json(world))
    folder.write_json("instance.json", problem_to_json(session.planner.problem(0)))
    folder.write_json("plan.json", plan_to_json(session.plan))  # last: where it is missing, a resumed run writes all


def _finish(folder: RunFolder, session: Session, state: Mapping[str, Any], observer: Observer) -> dict[str, Any]:
    observer.message("writing the summary" if not _samples(session) else "writing sample answers and the summary")
    rounds = [read_record(Round, line) for line in folder.read_rounds(kind=Trained)]
    samples, after = _samples(session), _answers(session, folder.path / "adapters")
    told = [
        Sample(e.prompt, e.answer, before, now, e.domain, who)
        for (e, who), before, now in zip(samples, state["answers"], after, strict=True)
    ]
    folder.write_json("samples.json", as_json(told))
    summary = as_json(_summary(session, rounds, state))
    folder.write_json("summary.json", summary)
    return summary


def _summary(session: Session, rounds: Sequence[Round], state: Mapping[str, Any]) -> Summary:
    recipe, data, bank = session.recipe, session.data, session.cohort.bank
    before, last = read_record(Judged, state["evaluation"]), rounds[-1]
    loss = Change(state["validation_loss"], last.validation_loss)
    tokens, wall_s = sum(r.tokens for r in rounds), sum(r.wall_s for r in rounds)
    parameters = sum(p.numel() for p in session.cohort.backbone.model.parameters())
    note = "; ".join(filter(None, (session.model.note, session.planner.table.architecture.note)))
    return Summary(
        status="finished",
        recipe=recipe.name,
        method=recipe.method.title,
        seed=recipe.run.seed,
        model=ModelInfo(session.model.name, note, parameters),
        data=DataInfo(
            name=data.corpus.name,
            train_samples=len(data.train),
            validation_samples=len(data.validation),
            partition=recipe.world.data.partition.kind,
            notes=tuple(data.notes),
            dropped=data.corpus.dropped,
            rows={"train": data.train.counts, "validation": data.validation.counts},
        ),
        rounds=len(rounds),
        local_steps=recipe.run.local_steps,
        num_clients=recipe.world.scenario.population.num_clients,
        precision=session.precision,
        device=str(session.cohort.backbone.device),
        validation_loss=loss,
        perplexity=None if data.classes else Change(_perplexity(loss.before), _perplexity(loss.after)),
        evaluation=Judgement(before, last.evaluation),
        personal=session.personal,
        full_model_bits=32 * parameters,
        upload_bits_K=_upload_bits(session.accountant),
        all_adapters_bits_K=_upload_bits(replace(session.accountant, sites=_trained(session))),
        alignment=state.get("alignment", AlignmentInfo()),
        privacy=_privacy(session, last.privacy),
        delay_s=sum(r.charged.delay_s for r in rounds),
        phases=total([r.charged.phases for r in rounds]),
        energy_j=sum(r.charged.energy_j for r in rounds),
        energy=total([r.charged.energy for r in rounds]),
        bits=total([r.metered_bits for r in rounds]),
        plan=_plan_info(session),
        aggregation=Aggregation(recipe.method.mixing.kind, last.aggregation_error),
        samples=sum(r.samples for r in rounds),
        tokens=tokens,
        tokens_per_s=tokens / wall_s,
        wall_s=wall_s,
        peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        trainable_parameters=Trainable(
            client=sum(
                math.prod(int(size) for size in field.shape)
                for field in adapter_spec(
                    [site for site in bank.sites if site.layer < max(session.cohort.placement.cut_K)],
                    max(session.rank_K),
                    sends_a=recipe.method.mixing.trains_a,
                ).values()
            ),
            server=sum(p.numel() for p in bank.parameters(local=False) if p.requires_grad),
        ),
        versions=versions(),
        commit=commit(),
        hardware=hardware(session.cohort.backbone.device),
        started=state.get("started", ""),
        ended=now(),
        command=state["command"],
    )


def _privacy(session: Session, last: RoundPrivacy) -> PrivacyInfo:
    """What the run gave away of any one client, and the mechanism."""
    part = session.recipe.method.privacy
    if part is None:
        return PrivacyInfo()
    spent = (last.delta, last.epsilon, last.epsilon_client, last.epsilon_server)
    return PrivacyInfo(*spent, part.clip_norm, part.noise_multiplier, part.noise)


def _trained(session: Session) -> tuple[AdapterSite, ...]:
    """Sites of all adapters that are trained, shared or personal."""
    sharing, layers = session.recipe.method.sharing, session.cohort.backbone.num_layers
    return tuple(s for s in session.cohort.bank.sites if sharing.role(s.kind, s.layer, layers) != "frozen")


def _upload_bits(accountant: Accountant) -> tuple[float, ...]:
    """Bits of every client's upload of the adapters that an accountant counts."""
    pairs = zip(accountant.cut_K, accountant.rank_K, strict=True)
    return tuple(accountant.adapter_bits(cut, rank)[0] for cut, rank in pairs)


def _perplexity(loss: float) -> float:
    return math.exp(min(loss, 700.0))  # no float holds more


def _plan_info(session: Session) -> PlanInfo:
    """The first plan beside its baselines, its bottleneck, and what 10 % more of each resource would save."""
    from wavetune.allocation.baselines import plan_baselines
    from wavetune.allocation.describe import bottleneck, sensitivities
    from wavetune.allocation.participants import of_participants

    problem, plan = session.planner.problem(0), session.plan
    info = PlanInfo(
        delay_s=plan.delay_s,
        lower_bound_s=plan.lower_bound_s or UNKNOWN,
        cut_K=tuple(plan.cut_K.tolist()),
        rank_K=tuple(plan.rank_K.tolist()),
        method=session.recipe.method.planner.kind,
    )
    if session.central:
        return info
    plans = plan_baselines(of_participants(problem, plan)[0], session.recipe.run.seed)
    per_client = len({*info.cut_K}) > 1 or len({*info.rank_K}) > 1
    return replace(
        info,
        baselines={name: other.delay_s for name, other in plans.items() if other.status == "ok"},
        bottleneck=bottleneck(problem, plan).sentence + ".",
        savings={} if per_client else {s.resource: s.saving for s in sensitivities(problem, plan)},
    )
