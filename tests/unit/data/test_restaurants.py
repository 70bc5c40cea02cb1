from __future__ import annotations

import itertools
import random
import re
from collections import Counter

import pytest

from wavetune.data import restaurants as module
from wavetune.data.lexicon import restaurant_words as words
from wavetune.data.restaurants import restaurants
from wavetune.data.rows import slots


@pytest.fixture(scope="module")
def corpus():
    return restaurants(train=3000, validation=100, test=100, seed=5)


def test_sizes_are_as_asked_and_no_meaning_occurs_twice(corpus):
    parts = (corpus.train, corpus.validation, corpus.test)
    assert [len(part) for part in parts] == [3000, 100, 100]
    meanings = [frozenset(slots(e.prompt).items()) for part in parts for e in part]
    assert len(set(meanings)) == 3200
    assert len({e.answer for e in corpus.train}) == 3000


def test_a_meaning_that_is_drawn_again_is_skipped(monkeypatch):
    names = iter("AABABC")
    monkeypatch.setattr(module, "draw_meaning", lambda house: {"name": next(names), "food": house.style})
    monkeypatch.setattr(words, "CUISINES", {"Thai": words.CUISINES["Thai"]})
    prompts = [e.prompt for e in itertools.islice(module.distinct_examples(random.Random(0)), 3)]
    assert prompts == ["name[A], food[Thai]", "name[B], food[Thai]", "name[C], food[Thai]"]


def test_a_seed_gives_one_corpus_and_a_larger_train_extends_a_smaller_one(corpus):
    again = restaurants(train=500, validation=100, test=100, seed=5)
    assert (again.train, again.validation, again.test) == (corpus.train[:500], corpus.validation, corpus.test)
    assert restaurants(train=5, validation=5, test=5, seed=6).train != corpus.train[:5]


def test_the_domain_is_the_cuisine_of_the_prompt(corpus):
    assert all(slots(e.prompt)["food"] == e.domain for e in corpus.train)
    assert Counter(e.domain for e in corpus.train).keys() == words.CUISINES.keys()


def said(phrases, text):
    return any(re.search(rf"\b{phrase}\b", text, re.I) for options in phrases.values() for phrase in options)


def test_every_slot_is_told_and_none_is_invented(corpus):
    for example in corpus.train:
        slot, text = slots(example.prompt), example.answer
        rest = text.replace(slot["name"], "")
        assert slot["name"] in text
        assert rest.count(slot["food"]) == 1
        for key in ("speciality", "near"):
            assert key not in slot or rest.lower().count(slot[key].lower()) == 1
        for table, key in ((words.PRICE, "priceRange"), (words.FAMILY, "familyFriendly")):
            told = [value for value, phrases in table.items() if said(phrases, rest)]
            assert told == [slot[key]] if key in slot else not told, text
        for table, key in ((words.AREAS, "area"), (words.SEATS, "seating")):
            told = [value for value in table if re.search(rf"\b{value}\b", rest, re.I)]
            assert told == [slot[key]] if key in slot else not told, text
        stars = [
            i for i, word in enumerate(words.STARS, 1) if re.search(rf"\b{word}[ -]star|\b{i}( out of |/)5", rest, re.I)
        ]
        assert stars == ([int(slot["customer rating"][0])] if "customer rating" in slot else []), text
        assert "eatType" not in slot or slot["eatType"] in rest


def test_texts_are_clean_english(corpus):
    for example in corpus.train:
        text = example.answer
        assert re.fullmatch(r"[A-Z][^{}\[\]]*\.", text), text
        assert not re.search(r"  | [.,?]|\b[Aa] (?!one)[aeiouAEIOU]|\b[Aa]n [^aeiouAEIOU]", text), text
        assert all(s[0].isupper() or s[0].isdigit() for s in re.split(r"(?<=[.?]) ", text)), text


def test_contrast_follows_but_when_a_sentence_speaks_for_and_against():
    both = re.compile(r"prices are low and [^.]*(1|2) out of 5|(1|2) out of 5[^.]* and prices are low")
    texts = [e.answer.lower() for e in restaurants(train=6000, validation=1, test=1).train]
    assert not [text for text in texts if both.search(text)]
    assert any(re.search(r"prices are low but [^.]*(1|2) out of 5", text) for text in texts)


def phrase_shares(examples):
    counts = Counter()
    for e in examples:
        text = e.answer.replace(slots(e.prompt)["name"], "N").replace(e.domain, "F")
        counts.update(itertools.pairwise(re.findall(r"\w+|[.,:?]", text)))
    total = sum(counts.values())
    return {pair: count / total for pair, count in counts.items()}


def distance(a, b):
    return sum(abs(a.get(k, 0) - b.get(k, 0)) for k in a.keys() | b.keys()) / 2


def test_cuisines_differ_in_style_far_more_than_halves_of_one_cuisine(corpus):
    halves = [[e for e in corpus.train if e.domain == food] for food in words.CUISINES]
    shares = [(phrase_shares(h[::2]), phrase_shares(h[1::2])) for h in halves]
    within = [distance(a, b) for a, b in shares]
    between = [distance(x[0], y[1]) for x, y in itertools.combinations(shares, 2)]
    assert min(between) > max(within)
