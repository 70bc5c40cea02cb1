"""Run a recipe in this process: all clients stacked in one model."""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable, Mapping
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
from wavetune.federation.run_folder import ALIGNMENT, RunFolder, explained
from wavetune.federation.sharing import message_shapes
from wavetune.models.adapter_folder import save_adapter_folder
from wavetune.models.generate import generate, load_for_generation
from wavetune.models.lora import AdapterSite, LoraPair
from wavetune.recipe import Recipe, load, to_dict
from wavetune.runtimes import aligning
from wavetune.runtimes.aligning import Stage, Task
from wavetune.runtimes.evaluation import evaluate, evaluate_untouched
from wavetune.runtimes.inputs import keep_inputs
from wavetune.runtimes.provenance import commit, hardware, now, versions
from wavetune.runtimes.round import RoundOutcome, StepDone, train_round
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

    def round(self, record: Mapping[str, Any]) -> None:
        """A round is done and saved."""

    def aligned(self, record: Mapping[str, Any], steps: int) -> None:
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
) -> dict[str, Any]:
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
        folder.write_json("alignment_before.json", aligning.to_json(found))
    before = aligning.from_json(folder.read_json("alignment_before.json", HeldOut))
    for step in range(steps_done, steps):
        started, last = time.perf_counter(), step + 1 == steps
        record, found = stage.advance(step + 1, evaluate=last or (step + 1) % every == 0)
        record["charged"] = aligning.charge(session, task, record)
        record["wall_s"] = time.perf_counter() - started
        if found is not None:
            record["evaluation"] = aligning.by_name(found, task.lambdas, before.scale())
        if last and found is not None:
            folder.write_json("alignment_after.json", aligning.to_json(found))
            _export(folder, session, session.server.current, {} if session.elsewhere else _clients_models(session))
        folder.append_round(record, ALIGNMENT)
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
    record = outcome.record
    if settings.evaluates_after(index):
        record["evaluation"] = evaluate(session, outcome.mixed.factors, index, outcome.scores)
        record["validation_loss"] = record["evaluation"]["loss"]
    if last:
        _export(folder, session, outcome.mixed.factors, personal)
    folder.append_round(record)
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
    return state | {f"server.{name}": value for name, value in server.items()}


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
    return done, saved


def _before(folder: RunFolder, session: Session, observer: Observer) -> dict[str, Any]:
    """What the untouched model does: its validation loss and its answers to the sample prompts."""
    observer.message(f"evaluating the untouched model on {len(session.data.validation)} validation rows")
    evaluation = evaluate_untouched(session)
    state = {
        "evaluation": evaluation,
        "validation_loss": evaluation["loss"],
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
    scenario, devices = session.recipe.world.scenario, session.planner.devices
    folder.write_json(
        "world.json",
        {
            "cell_radius_m": scenario.cell_radius_m,
            "devices": [
                {
                    "client_id": d.client_id,
                    "name": f"client-{d.client_id:02d}",
                    "position_m": list(d.position_m),
                    "flop_per_s": d.flop_per_s,
                    "tx_power_max_w": d.tx_power_max_w,
                    "path_loss_db": d.path_loss_db,
                    "shadowing_db": d.shadowing_db,
                    "is_los": d.is_los,
                    "num_samples": len(session.data.rows_by_client[d.client_id]),
                    "domains": session.data.domains_of(d.client_id),
                }
                for d in devices
            ],
            "bands": {
                name: {"num_subchannels": band.num_subchannels, "subchannel_hz": band.subchannel_hz}
                for name, band in (("main", scenario.bands.main), ("fed", scenario.bands.fed))
            },
            "server": {"flop_per_s": scenario.server.flop_per_s},
        },
    )
    folder.write_json("instance.json", problem_to_json(session.planner.problem(0)))
    folder.write_json("plan.json", plan_to_json(session.plan))  # last: where it is missing, a resumed run writes all


def _finish(folder: RunFolder, session: Session, state: Mapping[str, Any], observer: Observer) -> dict[str, Any]:
    observer.message("writing the summary" if not _samples(session) else "writing sample answers and the summary")
    records = folder.read_rounds(kind=Trained)
    samples, after = _samples(session), _answers(session, folder.path / "adapters")
    folder.write_json(
        "samples.json",
        [
            {"prompt": e.prompt, "reference": e.answer, "before": b, "after": a, "domain": e.domain, "client": who}
            for (e, who), b, a in zip(samples, state["answers"], after, strict=True)
        ],
    )
    summary = _summary(session, records, state)
    folder.write_json("summary.json", summary)
    return summary


def _summary(session: Session, records: list[dict[str, Any]], state: Mapping[str, Any]) -> dict[str, Any]:
    recipe, data, placement = session.recipe, session.data, session.cohort.placement
    before, after = state["validation_loss"], records[-1]["validation_loss"]
    tokens, wall_s = sum(r["tokens"] for r in records), sum(r["wall_s"] for r in records)
    bank, plan = session.cohort.bank, session.plan
    return {
        "status": "finished",
        "recipe": recipe.name,
        "method": recipe.method.title,
        "seed": recipe.run.seed,
        "model": {
            "name": session.model.name,
            "note": "; ".join(filter(None, (session.model.note, session.planner.table.architecture.note))),
            "parameters": sum(p.numel() for p in session.cohort.backbone.model.parameters()),
        },
        "data": {
            "name": data.corpus.name,
            "train_samples": len(data.train),
            "validation_samples": len(data.validation),
            "partition": recipe.world.data.partition.kind,
            "notes": list(data.notes),
            "dropped": data.corpus.dropped,
            "rows": {"train": data.train.counts, "validation": data.validation.counts},
        },
        "rounds": len(records),
        "local_steps": recipe.run.local_steps,
        "num_clients": recipe.world.scenario.population.num_clients,
        "precision": session.precision,
        "device": str(session.cohort.backbone.device),
        "validation_loss": {"before": before, "after": after},
        "perplexity": None if data.classes else {"before": _perplexity(before), "after": _perplexity(after)},
        "evaluation": {"before": state["evaluation"], "after": records[-1]["evaluation"]},
        "personal": session.personal,
        "full_model_bits": 32 * sum(p.numel() for p in session.cohort.backbone.model.parameters()),
        "upload_bits_K": _upload_bits(session.accountant),
        "all_adapters_bits_K": _upload_bits(replace(session.accountant, sites=_trained(session))),
        "delay_s": sum(r["charged"]["delay_s"] for r in records),
        "phases": _totals([r["charged"]["phases"] for r in records]),
        "energy_j": sum(r["charged"]["energy_j"] for r in records),
        "energy": _totals([r["charged"]["energy"] for r in records]),
        "bits": _totals([r["metered_bits"] for r in records]),
        "plan": {
            "delay_s": plan.delay_s,
            "lower_bound_s": plan.lower_bound_s or None,
            "cut_K": plan.cut_K.tolist(),
            "rank_K": plan.rank_K.tolist(),
            "method": recipe.method.planner.kind,
            **({} if session.central else _plan_story(session)),
        },
        "aggregation": {"name": recipe.method.mixing.kind, "error": records[-1]["aggregation_error"]},
        **({"privacy": _privacy(session, records[-1])} if "privacy" in records[-1] else {}),
        **({"alignment": state["alignment"]} if "alignment" in state else {}),
        "samples": sum(r["samples"] for r in records),
        "tokens": tokens,
        "tokens_per_s": tokens / wall_s,
        "wall_s": wall_s,
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "trainable_parameters": {
            "client": sum(
                rows * width
                for s in bank.sites
                if s.layer < max(placement.cut_K)
                for rows, width in message_shapes(s, max(session.rank_K), recipe.method.mixing.trains_a)
            ),
            "server": sum(p.numel() for p in bank.parameters(local=False) if p.requires_grad),
        },
        "versions": versions(),
        "commit": commit(),
        "hardware": hardware(session.cohort.backbone.device),
        "started": state.get("started"),
        "ended": now(),
        "command": state["command"],
    }


def _privacy(session: Session, last: Mapping[str, Any]) -> dict[str, Any]:
    """What the run gave away of any one client, and the mechanism."""
    part = session.recipe.method.privacy
    assert part is not None
    spent = {name: last["privacy"][name] for name in ("delta", "epsilon", "epsilon_client", "epsilon_server")}
    return {**spent, "clip_norm": part.clip_norm, "noise_multiplier": part.noise_multiplier, "noise": part.noise}


def _trained(session: Session) -> tuple[AdapterSite, ...]:
    """Sites of all adapters that are trained, shared or personal."""
    sharing, layers = session.recipe.method.sharing, session.cohort.backbone.num_layers
    return tuple(s for s in session.cohort.bank.sites if sharing.role(s.kind, s.layer, layers) != "frozen")


def _upload_bits(accountant: Accountant) -> list[float]:
    """Bits of every client's upload of the adapters that an accountant counts."""
    pairs = zip(accountant.cut_K, accountant.rank_K, strict=True)
    return [accountant.adapter_bits(cut, rank)[0] for cut, rank in pairs]


def _perplexity(loss: float) -> float:
    return math.exp(min(loss, 700.0))  # no float holds more


def _plan_story(session: Session) -> dict[str, Any]:
    """The first plan beside its baselines, its bottleneck, and what 10 % more of each resource would save."""
    from wavetune.allocation.baselines import plan_baselines
    from wavetune.allocation.describe import bottleneck, sensitivities
    from wavetune.allocation.participants import of_participants

    problem, plan = session.planner.problem(0), session.plan
    plans = plan_baselines(of_participants(problem, plan)[0], session.recipe.run.seed)
    per_client = len({*plan.cut_K.tolist()}) > 1 or len({*plan.rank_K.tolist()}) > 1
    return {
        "baselines": {name: other.delay_s for name, other in plans.items() if other.status == "ok"},
        "bottleneck": bottleneck(problem, plan).sentence + ".",
        "savings": {} if per_client else {s.resource: s.saving for s in sensitivities(problem, plan)},
    }


def _totals(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Sum of records field by field; per-client lists are added up to lists."""
    total: dict[str, Any] = {}
    for part in parts:
        for name, value in part.items():
            if isinstance(value, list):
                total[name] = [a + b for a, b in zip(total.get(name, [0.0] * len(value)), value, strict=True)]
            else:
                total[name] = total.get(name, 0) + value
    return total
