"""The summary of a run: what was trained on what, what it cost, and what it came to."""

import math
import resource
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from wavetune.federation.account import Accountant
from wavetune.federation.messages import adapter_spec
from wavetune.records.fields import UNKNOWN, total
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
    Summary,
    Trainable,
)
from wavetune.runtimes.provenance import commit, hardware, now, versions
from wavetune.runtimes.session import Session


def summary_of(session: Session, rounds: Sequence[Round], state: Mapping[str, Any]) -> Summary:
    """The summary of a session's rounds, given what was known before them."""
    recipe, data, bank = session.recipe, session.data, session.cohort.bank
    before, last = read_record(Judged, state["evaluation"]), rounds[-1]
    loss = Change(state["validation_loss"], last.validation_loss)
    tokens, wall_s = sum(r.tokens for r in rounds), sum(r.wall_s for r in rounds)
    parameters = sum(p.numel() for p in session.serving.backbone.model.parameters())
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
        all_adapters_bits_K=_upload_bits(_of_all_adapters(session)),
        privacy=_privacy(session, last.privacy),
        delay_s=sum(r.charged.delay_s for r in rounds),
        phases=total([r.charged.phases for r in rounds]),
        energy_j=sum(r.charged.energy_j for r in rounds),
        energy=total([r.charged.energy for r in rounds]),
        bits=total([r.metered_bits for r in rounds]),
        plan=_plan_info(session),
        aggregation=Aggregation(recipe.method.mixing.kind, last.aggregation_error),
        samples=int(sum(r.samples for r in rounds)),
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
                    recipe.method.mixing.frozen,
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


def _of_all_adapters(session: Session) -> Accountant:
    """What would count the bits if all that is trained were sent, shared or personal."""
    method, layers = session.recipe.method, session.cohort.backbone.num_layers
    sites = tuple(s for s in session.cohort.bank.sites if method.sharing.role(s.kind, s.layer, layers) != "frozen")
    return replace(
        session.accountant, sites=sites, method=replace(method, sharing=replace(method.sharing, factors="both"))
    )


def _upload_bits(accountant: Accountant) -> tuple[float, ...]:
    """Bits of every client's upload of the adapters that an accountant counts."""
    pairs = zip(accountant.cut_K, accountant.rank_K, strict=True)
    return tuple(accountant.adapter_bits(cut, rank)[0] for cut, rank in pairs)


def _perplexity(loss: float) -> float:
    return math.exp(min(loss, 700.0))  # no float holds more


def _plan_info(session: Session) -> PlanInfo:
    """The first plan beside its baselines, its bottleneck, and what 10 % more of each resource would save.

    Where clients may differ, that would be searched for longer than many a run takes, and is left out.
    """
    from wavetune.allocation.baselines import plan_baselines
    from wavetune.allocation.describe import bottleneck, sensitivities
    from wavetune.allocation.participants import of_participants

    problem, plan, planner = session.planner.known(0), session.plan, session.recipe.method.planner
    info = PlanInfo(
        delay_s=plan.delay_s,
        lower_bound_s=UNKNOWN if planner.minds_energy else plan.lower_bound_s or UNKNOWN,  # which is of the delay alone
        cut_K=tuple(plan.cut_K.tolist()),
        rank_K=tuple(plan.rank_K.tolist()),
        rounds=plan.delay_s / plan.phases.round_s if plan.phases.round_s > 0 else UNKNOWN,
        method=planner.kind,
    )
    if session.central:
        return info
    plans = plan_baselines(of_participants(problem, plan)[0], session.recipe.run.seed)
    differ = problem.clients_may_differ or len({*info.cut_K}) > 1 or len({*info.rank_K}) > 1
    return replace(
        info,
        baselines={name: other.delay_s for name, other in plans.items() if other.status == "ok"},
        bottleneck=bottleneck(problem, plan).sentence + ".",
        savings={} if differ else {s.resource: s.saving for s in sensitivities(problem, plan, each_s=planner.search_s)},
    )
