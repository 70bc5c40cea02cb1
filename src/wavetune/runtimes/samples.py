"""Answers of a run's models to a few validation prompts."""

from __future__ import annotations

from pathlib import Path

from wavetune.data.examples import Example
from wavetune.data.templates import prompt_ids
from wavetune.models.generate import generate, load_for_generation
from wavetune.runtimes.export import adapter_name
from wavetune.runtimes.session import Session


def samples_of(session: Session) -> list[tuple[Example, int | None]]:
    """Validation examples of different domains to generate from, and who answers.

    That is the one model of all clients (None) or, where they have models of their own, who knows the domain best.
    Nobody does where these are on devices.
    """
    chosen, seen = list[Example](), set[str]()
    nobody = bool(session.data.classes) or (session.personal and session.on_devices)
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


def answers_of(session: Session, adapters: Path | None) -> list[str]:
    """Answers to the sample prompts, by the untouched model or by those under `adapters`."""
    samples, settings = samples_of(session), session.recipe.run
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
