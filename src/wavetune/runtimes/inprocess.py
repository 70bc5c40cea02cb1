"""Run a recipe in this process: all clients stacked in one model."""

from __future__ import annotations

import math
import resource
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from wavetune.allocation.instance import plan_to_json, problem_to_json
from wavetune.console import given_command
from wavetune.data.examples import Example
from wavetune.data.templates import prompt_ids
from wavetune.errors import RunFolderError
from wavetune.federation.account import Accountant
from wavetune.federation.folder_lock import locked
from wavetune.federation.messages import adapter_spec
from wavetune.federation.run_folder import RunFolder
from wavetune.models.generate import generate, load_for_generation
from wavetune.models.lora import AdapterSite
from wavetune.recipe import Recipe, load, to_dict
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
from wavetune.runtimes.alignment.phase import Aligning
from wavetune.runtimes.alignment.task import checked_task
from wavetune.runtimes.engine import Engine, Observer, Trainer
from wavetune.runtimes.evaluation import evaluate_untouched
from wavetune.runtimes.export import adapter_name
from wavetune.runtimes.inputs import keep_inputs
from wavetune.runtimes.phase import Phase, play
from wavetune.runtimes.provenance import commit, hardware, now, versions
from wavetune.runtimes.round import train_round
from wavetune.runtimes.saved import Begun, Trained
from wavetune.runtimes.session import Infeasible, Session, build
from wavetune.runtimes.tuning import Tuning


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
    task = checked_task(session)
    with nullcontext(Trainer(train_round)) if engine is None else engine(session, observer.message) as trainer:
        if folder is None:
            folder = RunFolder.create(out)
            folder.write_json("recipe.json", to_dict(replace(recipe, world=session.recipe.world)))
        keep_inputs(folder, session.data, session.model.folder, session.recipe.world.scenario.channel.inputs())
        if planned is None:
            _write_world(folder, session)
        phases: list[Phase] = [Tuning(session, folder, observer, trainer.train_round)]
        if task is not None:
            phases.append(Aligning(session, folder, observer, task, trainer.align))
        done, saved = _restore(folder, session)
        state = folder.read_json("state.json", Begun) or _before(folder, session, observer)
        observer.started(session, min(done, phases[0].rounds), state["validation_loss"])
        play(phases, folder, done, saved, recipe.run.checkpoint_every, lambda: _state(session))
        found = {name: value for phase in phases for name, value in phase.summary().items()}
    return _finish(folder, session, state, found, observer)


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
    """Load the newest checkpoint; returns the rounds done of all phases together, and the checkpoint."""
    checkpoint = folder.load_checkpoint()
    done, saved = checkpoint if checkpoint is not None else (0, {})
    for name, tensor in _state(session).items():
        if not done or not name.startswith("adapter."):
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
    folder.write_json("instance.json", problem_to_json(session.planner.known(0)))
    folder.write_json("plan.json", plan_to_json(session.plan))  # last: where it is missing, a resumed run writes all


def _finish(
    folder: RunFolder, session: Session, state: Mapping[str, Any], found: Mapping[str, Any], observer: Observer
) -> dict[str, Any]:
    observer.message("writing the summary" if not _samples(session) else "writing sample answers and the summary")
    rounds = [read_record(Round, line) for line in folder.read_rounds(kind=Trained)]
    samples, after = _samples(session), _answers(session, folder.path / "adapters")
    told = [
        Sample(e.prompt, e.answer, before, now, e.domain, who)
        for (e, who), before, now in zip(samples, state["answers"], after, strict=True)
    ]
    folder.write_json("samples.json", as_json(told))
    summary = as_json(replace(_summary(session, rounds, state), **found))
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

    problem, plan = session.planner.known(0), session.plan
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
