"""Answers of a run's models to a few validation prompts."""

from pathlib import Path

from wavetune.data.examples import Example, begun
from wavetune.data.templates import prompt_ids
from wavetune.errors import ConfigError
from wavetune.models.adapter_folder import read_factors
from wavetune.models.decode import decode
from wavetune.models.stopping import own_ends, up_to_end
from wavetune.runtimes.export import adapter_name
from wavetune.runtimes.session import Session, one_bank
from wavetune.runtimes.untouched_cache import recalled_answers

LEAST_PROMPT = 2
"""Tokens of a prompt that samples begin from, at least."""


def samples_of(session: Session) -> list[tuple[Example, int | None]]:
    """Validation examples of different domains to generate from, and who answers.

    That is the one model of all clients (None) or, where they have models of their own, who knows the domain best.
    Nobody does where these are on devices. Of a text without a prompt the model is given the first words.
    """
    chosen, seen = list[Example](), set[str]()
    nobody = bool(session.data.classes) or (session.personal and session.on_devices)
    examples = [] if nobody else session.data.corpus.validation
    for example in sorted(examples, key=lambda e: e.domain in seen or seen.add(e.domain) or False):
        chosen.append(begun(example))
        if len(chosen) == session.recipe.run.samples:
            break
    chosen = chosen[: session.recipe.run.samples]
    if not session.personal:
        return [(example, None) for example in chosen]
    rows_K = [session.data.domains_of(client) for client in range(len(session.data.rows_by_client))]
    return [(e, max(range(len(rows_K)), key=lambda k: rows_K[k].get(e.domain, 0))) for e in chosen]


def answers_of(session: Session, adapters: Path | None) -> list[str]:
    """Answers to the sample prompts, by the untouched model or by those under `adapters`, in the run's own model."""
    samples, settings, backbone = samples_of(session), session.recipe.run, session.serving.backbone
    if not samples:
        return []
    template, tokenizer = session.recipe.world.data.template, session.tokenizer
    vectors = 0 if adapters is None else session.data.train.prompt_tokens
    before = 0 if adapters is None else vectors + session.recipe.method.key_tokens
    room = None if backbone.max_tokens is None else backbone.max_tokens - settings.sample_tokens - before
    if room is not None and room < LEAST_PROMPT:
        raise ConfigError(
            f"run.sample_tokens is {settings.sample_tokens} but the model takes {backbone.max_tokens} tokens, prompt "
            f"included; give at most {room + settings.sample_tokens - LEAST_PROMPT}"
        )
    prompts = prompt_ids([example for example, _ in samples], tokenizer, template, room)
    ends = {*session.data.ends, *own_ends(backbone.model), *((t,) for t in [tokenizer.eos_token_id] if t is not None)}
    if adapters is None:
        ids = [tuple(map(int, prompt)) for prompt in prompts]

        def said() -> list[str]:
            found = decode(backbone, ids, settings.sample_tokens, ends)
            return [tokenizer.decode(up_to_end(one.ids, ends), skip_special_tokens=True) for one in found]

        where = session.serving, session.model.folder, session.precision
        return recalled_answers(*where, ids, settings.sample_tokens, ends, said)
    answers = dict[int, str]()
    for who in sorted({client for _, client in samples}, key=str):
        asked = [i for i, (_, client) in enumerate(samples) if client == who]
        bank = one_bank(session.serving, read_factors(adapters / adapter_name(who), backbone))
        texts = [[prompts[i][0]] * vectors + list(prompts[i]) for i in asked]
        for i, answer in zip(asked, decode(backbone, texts, settings.sample_tokens, ends, bank), strict=True):
            answers[i] = tokenizer.decode(up_to_end(answer.ids, ends), skip_special_tokens=True)
    return [answers[i] for i in range(len(samples))]
