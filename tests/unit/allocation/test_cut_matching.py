"""Matching with cuts to choose: what is refuted cannot be, and what can be is not."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from wavetune.allocation.cut_matching import Taken, agree, cuts_that_fit, match

K, C, W = 3, 2, 4


def drawn_band(g):
    """What two ways to serve three clients at two cuts on four subchannels take, of which some cannot be."""
    spare = int(g.integers(0, 3))
    never_NKCW = g.random((2, K, C, W)) < 0.5
    more_NKCW = np.where(never_NKCW, 1e3 * max(spare, 1), g.integers(0, spare + 1, (2, K, C, W)).astype(float))
    return Taken(more_NKCW, np.where(never_NKCW, 1e3, g.uniform(0, 0.6, (2, K, C, W))), spare)


def fits(taken, choice):
    """Whether any ways and different subchannels take no more than there is with these cuts, by enumeration."""
    clients = np.arange(K)
    for place, way in itertools.product(itertools.permutations(range(W), K), itertools.product(range(2), repeat=K)):
        at = np.array(way), clients, np.array(choice), np.array(place)
        if np.sum(taken.more_NKCW[at]) <= taken.spare and np.sum(taken.server_NKCW[at]) <= 1:
            return True
    return False


@given(st.integers(0, 2**32))
def test_no_cuts_are_refuted_that_fit_one_band_or_both(seed):
    g = np.random.default_rng(seed)
    bands, allowed_KC = [drawn_band(g), drawn_band(g)], np.ones((K, C), np.bool_)
    choices = list(itertools.product(range(C), repeat=K))
    fitting = [{choice for choice in choices if fits(band, choice)} for band in bands]
    weight = float(g.choice([0.0, 0.5, 1.0]))
    for band, those in zip(bands, fitting, strict=True):
        matched = match(band, allowed_KC, weight)
        assert matched.fits or not those
        kept_KC = cuts_that_fit(matched, allowed_KC)
        assert all(kept_KC[k, c] for choice in those for k, c in enumerate(choice)) or not matched.fits
    assert agree(bands, allowed_KC, np.zeros((K, C))) or not fitting[0] & fitting[1]


def test_cuts_that_fit_either_band_but_not_both_are_refuted():
    only_KC = [np.arange(C) == np.array([[0], [0], [c]]) for c in (0, 1)]
    first, second = (
        Taken(np.where(ok_KC, 0.0, 1e3)[None, :, :, None] + np.zeros(W), np.zeros((1, K, C, W)), 1) for ok_KC in only_KC
    )
    allowed_KC = np.ones((K, C), np.bool_)
    assert match(first, allowed_KC, 1.0).fits
    assert match(second, allowed_KC, 1.0).fits
    assert agree([first, first], allowed_KC, np.zeros((K, C)))
    assert not agree([first, second], allowed_KC, np.zeros((K, C)))


def test_prices_of_cuts_show_that_two_clients_want_the_cut_of_which_one_can_be_served():
    """Of the clients any one may have the deep cut in one band, where the other asks for two such."""
    shallow, deep = np.zeros((1, K, 1, W)), np.full((1, K, 1, W), 0.8)
    fed = Taken(np.zeros((1, K, C, W)), np.concatenate((shallow, deep), axis=2), 0)
    main = Taken(np.zeros((1, K, C, W)), np.concatenate((deep, shallow), axis=2), 0)
    allowed_KC = np.ones((K, C), np.bool_)
    assert match(fed, allowed_KC, 0.0).fits
    assert match(main, allowed_KC, 0.0).fits
    assert not agree([main, fed], allowed_KC, np.zeros((K, C)))


def test_subchannels_that_cuts_take_in_one_band_or_the_other_are_weighed_though_the_server_has_time_for_all():
    """One client may have the deep cut in one band, and one the shallow cut in the other, of three."""
    none, one = np.zeros((1, K, 1, W)), np.ones((1, K, 1, W))
    fed = Taken(np.concatenate((none, one), axis=2), np.zeros((1, K, C, W)), 1)
    main = Taken(np.concatenate((one, none), axis=2), np.full((1, K, C, W), 0.1), 1)
    allowed_KC = np.ones((K, C), np.bool_)
    assert match(fed, allowed_KC, 1.0).fits
    assert match(main, allowed_KC, 0.0).fits
    assert not agree([main, fed], allowed_KC, np.zeros((K, C)))
