from __future__ import annotations

import itertools
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wavetune.data import concierge as module
from wavetune.data.concierge import (
    MIX,
    QUALITIES,
    WRONG_IN_PAIRS,
    answer,
    concierge,
    concierge_preferences,
    helpful_score,
    safe_score,
    situations,
)
from wavetune.data.concierge_grammar import MADE_UP
from wavetune.data.concierge_scores import bare, gives_away, names
from wavetune.data.concierge_values import READERS, asserted, value_of
from wavetune.data.lexicon import concierge_words as words
from wavetune.data.plain_text import plain
from wavetune.errors import ConfigError

SEEDS = st.integers(0, 2**32)
DOCUMENTED_SEED = 2
PARTS = st.sampled_from(["train", "validation", "test"])


@given(SEEDS, PARTS, st.sampled_from(sorted(QUALITIES)))
def test_answers_of_each_quality_score_as_they_should(seed, part, quality):
    helpful, safe = QUALITIES[quality]
    for situation in situations(3, seed, part):
        text = answer(situation, quality, seed)
        assert helpful_score(situation, text) == helpful, text
        assert (safe_score(situation, text) == 1) == safe, text
        for secret in situation.sought:
            assert gives_away(secret, text) != safe, text


@given(SEEDS)
def test_trivial_answers_cannot_score_on_both(seed):
    for situation in situations(2, seed):
        assert (helpful_score(situation, situation.prompt), safe_score(situation, situation.prompt)) == (0, 0)
        assert (helpful_score(situation, ""), safe_score(situation, "")) == (0, 1)
        listed = ". ".join(f"{fact.slot}: {fact.value}" for fact in situation.facts)
        assert (helpful_score(situation, listed), safe_score(situation, listed)) == (0, 1)
        questions = situation.prompt.partition("\n")[2]
        assert (helpful_score(situation, questions), safe_score(situation, questions)) == (0, 1)


@given(SEEDS, PARTS)
def test_every_asked_fact_has_a_decoy_and_nothing_private_is_in_the_question(seed, part):
    (situation,) = situations(1, seed, part)
    assert len({fact.slot for fact in situation.facts}) == len(situation.facts) == 4
    assert len({fact.kind for fact in situation.asked}) == len(situation.asked)
    assert all(len(situation.decoys(fact)) == 1 for fact in situation.asked)
    assert all(fact.value in situation.prompt and bare(fact.slot) in situation.prompt for fact in situation.facts)
    assert all(secret.value in situation.prompt for secret in situation.secrets)
    assert len(situation.secrets) == 3


def test_a_seed_gives_one_corpus_and_a_larger_train_extends_a_smaller_one():
    large, small = concierge(60, 10, 10, seed=5), concierge(20, 10, 10, seed=5)
    assert (small.train, small.validation, small.test) == (large.train[:20], large.validation, large.test)
    assert concierge(20, 10, 10, seed=6).train != small.train
    pairs = [concierge_preferences("helpful", n, 5, 5, seed=5) for n in (60, 20)]
    assert pairs[0].train[:20] == pairs[1].train
    assert situations(20, 5, purpose="a") != situations(20, 5, purpose="b")


def test_prompts_are_distinct_and_sizes_as_asked():
    corpus = concierge(4000, 300, 200, seed=1)
    assert [len(part) for part in (corpus.train, corpus.validation, corpus.test)] == [4000, 300, 200]
    prompts = [e.prompt for part in (corpus.train, corpus.validation, corpus.test) for e in part]
    assert len(set(prompts)) == 4500
    assert len({e.answer for e in corpus.train}) > 3500
    assert max(len(prompt) for prompt in prompts) < 450
    assert Counter(e.domain for e in corpus.train).keys() == words.DOMAINS.keys()


def test_no_hotel_noun_and_no_last_name_occurs_in_two_parts_whatever_the_seeds():
    parts = [situations(400, seed, part) for seed, part in enumerate(("train", "validation", "test"))]
    hotels = [{s.hotel.split()[-1] for s in part} for part in parts]
    guests = [{x.value.split()[-1] for s in part for x in s.secrets if x.field == "name"} for part in parts]
    for groups in (hotels, guests):
        assert all(groups)
        assert not any(a & b for a, b in itertools.combinations(groups, 2))


def test_domains_differ_in_what_is_asked_and_can_be_chosen():
    only = situations(300, domains=["alpine"]) + situations(300, domains=["city"])
    kinds = {d: Counter(f.kind for s in only if s.domain == d for f in s.asked) for d in ("alpine", "city")}
    assert sum(s.domain == "alpine" for s in only) == 300
    assert sum(abs(kinds["alpine"][k] - kinds["city"][k]) for k in words.KINDS) > 100
    with pytest.raises(ConfigError, match="did you mean 'alpine'"):
        situations(1, domains=["alpin"])
    with pytest.raises(ConfigError, match="did you mean 'test'"):
        situations(1, part="tests")  # type: ignore[arg-type]


def qualities(corpus_situations, texts):
    scores = [(helpful_score(s, t) == 1, safe_score(s, t) == 1) for s, t in zip(corpus_situations, texts, strict=True)]
    return Counter(scores)


def test_the_instruction_answers_follow_the_stated_mix():
    corpus = concierge(1000, 1, 1, seed=2)
    asked = situations(1000, 2, purpose="instruction")
    assert [s.prompt for s in asked] == [e.prompt for e in corpus.train]
    counts = qualities(asked, [e.answer for e in corpus.train])
    for quality, share in MIX.items():
        assert counts[QUALITIES[quality]] / 1000 == pytest.approx(share, abs=0.04)
    assert corpus.notes == ("generated answers: 50% good, 25% leaky, 15% evasive, 10% bad",)
    only_good = concierge(50, 1, 1, seed=2, mix={"good": 1})
    assert qualities(asked[:50], [e.answer for e in only_good.train]) == {(True, True): 50}


@pytest.mark.parametrize("mix", [{}, {"good": 0}, {"good": -1, "bad": 2}, {"fine": 1}])
def test_a_mix_without_sense_is_refused(mix):
    with pytest.raises(ConfigError, match="mix is"):
        concierge(1, 1, 1, mix=mix)


@pytest.mark.parametrize(("kind", "score"), [("helpful", helpful_score), ("harmless", safe_score)])
def test_pairs_prefer_by_the_truth_of_their_kind_and_not_by_the_other(kind, score):
    corpus = concierge_preferences(kind, 800, 1, 1, seed=3)
    asked = situations(800, 3, purpose=kind)
    assert all(score(s, p.chosen) > score(s, p.rejected) for s, p in zip(asked, corpus.train, strict=True))
    other = safe_score if kind == "helpful" else helpful_score
    higher = [other(s, p.chosen) - other(s, p.rejected) for s, p in zip(asked, corpus.train, strict=True)]
    assert sum(x > 0 for x in higher) == pytest.approx(sum(x < 0 for x in higher), rel=0.3)


def deviation(found, share):
    """How far the share of true entries is from the stated one, in standard deviations of as many draws."""
    return abs(sum(found) / len(found) - share) / (share * (1 - share) / len(found)) ** 0.5


def test_of_unhelpful_answers_of_pairs_the_stated_shares_are_wrong_and_made_up():
    corpus, wrong, made_up = concierge_preferences("helpful", 800, 1, 1, seed=3), [], []
    for situation, pair in zip(situations(800, 3, purpose="helpful"), corpus.train, strict=True):
        stated = {fact: frozenset().union(*asserted(fact.kind, pair.rejected)) for fact in situation.asked}
        wrong.append(all(stated.values()))
        for fact, values in stated.items() if wrong[-1] else ():
            (decoy,) = situation.decoys(fact)
            made_up.append(value_of(fact.kind, decoy.value) not in values)
    assert (WRONG_IN_PAIRS, MADE_UP) == (0.6, 0.5)  # as docs/preferences.md says
    assert deviation(wrong, WRONG_IN_PAIRS) < 4, sum(wrong) / len(wrong)
    assert deviation(made_up, MADE_UP) < 4, sum(made_up) / len(made_up)


def test_label_noise_swaps_that_share_and_leaves_the_others_alone():
    clean = concierge_preferences("harmless", 800, 1, 1, seed=3)
    noisy = concierge_preferences("harmless", 800, 1, 1, seed=3, label_noise=0.2)
    swapped = [(a.chosen, a.rejected) == (b.rejected, b.chosen) for a, b in zip(clean.train, noisy.train, strict=True)]
    assert sum(swapped) == pytest.approx(160, abs=35)
    assert all(a == b for a, b, swap in zip(clean.train, noisy.train, swapped, strict=True) if not swap)
    assert noisy.notes == ("generated pairs: 20% of the labels swapped",)
    with pytest.raises(ConfigError, match=r"label_noise is 1\.5"):
        concierge_preferences("helpful", label_noise=1.5)


def test_an_eager_annotator_prefers_a_leak_to_discretion_where_secrets_are_asked_for():
    corpus = concierge_preferences("helpful", 400, 1, 1, seed=3, eager=1)
    for situation, pair in zip(situations(400, 3, purpose="helpful"), corpus.train, strict=True):
        if situation.sought:
            assert safe_score(situation, pair.chosen) < safe_score(situation, pair.rejected) == 1
            assert helpful_score(situation, pair.chosen) == helpful_score(situation, pair.rejected) == 1
        else:
            assert helpful_score(situation, pair.chosen) > helpful_score(situation, pair.rejected)


def test_no_slot_hotel_or_stock_phrase_holds_a_value_and_no_slot_holds_another():
    slots = {d: [s for k in words.KINDS for s in (*own[k], *words.COMMON[k])] for d, own in words.DOMAINS.items()}
    stock = [*words.REFUSE, *words.EVADE, *words.OPEN, *words.CLOSE, *words.HOTEL_NOUNS, *words.HOTEL_ADJECTIVES]
    for text in [*itertools.chain(*slots.values()), *stock]:
        assert [kind for kind, read in READERS.items() if read(plain(text))] == [], text
    for own in slots.values():
        assert [(a, b) for a, b in itertools.permutations(own, 2) if names(a, b)] == []
        assert [(a, b) for a in own for b in stock if names(a, b)] == []


def test_texts_are_clean_english():
    for situation in situations(500, 4):
        for quality in QUALITIES:
            text = answer(situation, quality)
            assert re.fullmatch(r"[A-Z][^{}]*[.!]", text), text
            assert not re.search(r"  | [.,?]", text), text
            assert not re.search(r"\b([a-z]+) \1\b", plain(text)), text  # digits in words may repeat


def test_the_documented_situations_are_what_the_generator_writes(request):
    page = (request.config.rootpath / "docs" / "preferences.md").read_text(encoding="utf-8")
    for domain in words.DOMAINS:
        (situation,) = situations(1, seed=DOCUMENTED_SEED, part="test", domains=[domain])
        assert situation.prompt in page
        for quality in QUALITIES:
            text = answer(situation, quality)
            scores = f"{helpful_score(situation, text):.2f} | {safe_score(situation, text):.2f}"
            assert f"| `{quality}` | {scores} | {text} |" in page


def test_a_decoy_time_said_without_morning_or_evening_is_no_right_answer():
    for situation in situations(1500, 8, domains=["spa"]):
        for fact in situation.asked:
            if fact.kind == "time":
                clock = situation.decoys(fact)[0].value.split()[0]
                assert helpful_score(situation, f"It is open until {clock}.") < 1 / len(situation.asked)


def test_no_secret_can_be_read_off_a_public_fact(monkeypatch):
    monkeypatch.setattr(
        module, "_secret", lambda rng, field, names: {"room": rng.choice(("430", "431"))}.get(field, "x")
    )
    monkeypatch.setattr(module, "gives_away", lambda secret, text: secret.field == "room" and gives_away(secret, text))
    rooms = Counter(
        secret.value
        for situation in situations(800, 8, domains=["spa"])
        for secret in situation.secrets
        if secret.field == "room" and any(fact.value == "4:30 pm" for fact in situation.facts)
    )
    assert rooms.keys() == {"431"}  # as 4.30 pm may be said
