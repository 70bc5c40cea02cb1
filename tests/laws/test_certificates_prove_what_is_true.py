"""No certificate proves more than the best of all owners, cuts and powers takes, whoever changed a number of it."""

import itertools
import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from helpers.json_numbers import numbers
from helpers.scripts import script
from wavetune.allocation.certificate import plan_with_certificate
from wavetune.allocation.decision import Evaluator, options_of
from wavetune.allocation.instance import problem_to_json

ROOT = Path(__file__).parents[2]
UPLINK, BOTH_WAYS = "cuts per client, slow server", "both ways, cuts per client, slow server"
SHARES, SHARES_BOTH_WAYS = "cuts and shares, slow server", "both ways, cuts and shares, slow server"
OTHER_VALUES = -1.0, 0.0, 1e6, 1e200, float("nan"), -float("inf"), 2, 1
FACTORS = 0.5, 0.9, 0.999, 1.001, 1.1, 2.0
ABOVE = 1 + 1e-4  # the best of all, which nothing may prove


own_cuts, shares, common_cut, problem_of = (
    script(ROOT / "tools" / "verify_own_cuts.py"),
    script(ROOT / "tools" / "verify_shares.py"),
    script(ROOT / "tools" / "verify_plan.py"),
    script(ROOT / "benchmarks" / "planner_classes.py").problem_of,
)


REFUSED = own_cuts.verify_plan.RefusedError, shares.verify_plan.RefusedError, common_cut.RefusedError


def best_of_all_s(problem):
    """Least delay over all owners of all subchannels and all cuts, with the best powers and shares of the server."""
    evaluator, K = Evaluator(problem), problem.num_clients
    main_M, fed_M = (
        [np.array(owners) for owners in itertools.product(range(K), repeat=band.num_subchannels)]
        for band in (problem.main, problem.fed)
    )
    best_s, cuts = np.inf, range(len(problem.cuts))
    choices = itertools.product(cuts, repeat=K) if problem.cut_per_client else [(cut,) * K for cut in cuts]
    for choice in choices:
        options = options_of(problem, problem.ranks[0]).of(np.array(choice))
        fed = min(fed_M, key=lambda owner_M, options=options: evaluator.fed_s(options, owner_M))
        decisions = (evaluator.balance_shares(evaluator.decide(options, owner_M, fed)) for owner_M in main_M)
        best_s = min(best_s, *(decision.delay_s for decision in decisions))
    return best_s


@cache
def certified(kind, subchannels, seed, own):
    """Instance and certificate of a cell of three clients and two cuts, and the best of all (s)."""
    cuts = sorted(np.random.default_rng(seed).choice(np.arange(2, 12), 2, replace=False).tolist())
    problem = replace(problem_of(kind, 3, subchannels, seed).restrict(cuts, [4]), cut_per_client=own)
    _, certificate = plan_with_certificate(problem)
    return *json.loads(json.dumps([problem_to_json(problem), certificate])), best_of_all_s(problem)


def checker_of(kind, own):
    """What checks certificates of a kind of problem."""
    return shares if "shares" in kind else own_cuts if own else common_cut


def proved_s(instance, certificate, checker, claimed_s):
    """What a checker takes for proved; nothing where it refuses."""
    changed = certificate | ({} if checker is common_cut else {"lower_bound_s": claimed_s})
    try:
        with np.errstate(all="ignore"):
            return checker.bound(instance, changed)
    except (*REFUSED, LookupError, TypeError, ValueError, AttributeError, ArithmeticError):
        return 0.0


CELLS = [
    (UPLINK, 4, 1, True),
    (BOTH_WAYS, 3, 0, True),
    (BOTH_WAYS, 4, 0, True),
    (UPLINK, 5, 2, False),
    (BOTH_WAYS, 6, 1, False),
    (SHARES, 4, 1, True),
    (SHARES, 5, 2, False),
    (SHARES_BOTH_WAYS, 4, 0, True),
]


@pytest.mark.parametrize(("kind", "subchannels", "seed", "own"), CELLS)
def test_what_is_proved_is_close_below_the_best_of_all(kind, subchannels, seed, own):
    instance, certificate, best_s = certified(kind, subchannels, seed, own)
    proved = proved_s(instance, certificate, checker_of(kind, own), certificate["lower_bound_s"])
    assert 0.995 * best_s <= proved <= best_s


@pytest.mark.parametrize(("kind", "subchannels", "seed", "own"), CELLS)
def test_nobody_who_changes_one_number_proves_more_than_the_best_of_all(kind, subchannels, seed, own):
    instance, certificate, best_s = certified(kind, subchannels, seed, own)
    checker = checker_of(kind, own)
    assert proved_s(instance, certificate, checker, ABOVE * best_s) <= best_s
    g, kinds = np.random.default_rng(seed), dict[str, list[tuple[str | int, ...]]]()
    for path in numbers(certificate):
        name = max(i for i, key in enumerate(path) if isinstance(key, str))
        kinds.setdefault(f"{path[name]} {path[-1] if path[name] == 'multipliers' else ''}", []).append(path)
    for kind, paths in kinds.items():
        drawn = [paths[i] for i in g.permutation(len(paths))[: 10 if checker is common_cut else 1]]
        for path, value in [(paths[0], -1e6), *((path, None) for path in drawn if kind != "lower_bound_s ")]:
            parent, last = certificate, path[-1]
            for key in path[:-1]:
                parent = parent[key]
            kept = parent[last]
            parent[last] = value or g.choice([*OTHER_VALUES, *(factor * kept for factor in FACTORS)])
            assert proved_s(instance, certificate, checker, ABOVE * best_s) <= best_s, (path, parent[last])
            parent[last] = kept


def leaves(proof):
    """What both bands take for choices of cuts, in all of a proof."""
    if "apart" in proof:
        yield {"apart": proof["apart"]}
    for name in {"then", "has", "lacks"} & proof.keys():
        yield from leaves(proof[name])


@pytest.mark.parametrize(("kind", "subchannels", "seed"), [cell[:3] for cell in CELLS if cell[:2] == (BOTH_WAYS, 3)])
def test_what_bands_take_for_one_choice_of_cuts_is_not_taken_for_all_choices(kind, subchannels, seed):
    instance, certificate, best_s = certified(kind, subchannels, seed, True)
    found = list(leaves(certificate["ranks"][0]["proof"]))
    for leaf in (*found, {"apart": {"main": [], "fed": []}}):
        grafted = certificate | {"ranks": [certificate["ranks"][0] | {"proof": leaf}]}
        assert proved_s(instance, grafted, own_cuts, ABOVE * best_s) <= best_s
    assert len(found) > 1


def test_what_bands_take_by_themselves_proves_nothing_of_shares_of_the_server():
    """Who is soon back at work can be heard late, so that the last of both ways are no sum."""
    instance, certificate, _ = certified(BOTH_WAYS, 4, 0, True)
    rounds = shares.SharedRounds(instance, instance["cuts"], 4, 1.0)
    for leaf in leaves(certificate["ranks"][0]["proof"]):
        assert rounds.apart(leaf["apart"], rounds.fits) == 0
