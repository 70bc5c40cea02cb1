"""Rounds that are about some blocks alone train, send and charge these alone."""

import torch

from helpers.runs import small
from wavetune.runtimes.round import train_round
from wavetune.runtimes.session import Session, build

ONE_BLOCK = ('method.exchange={"kind":"module_wise","full_rounds":1,"threshold":2,"patience":1}',)


def test_blocks_that_a_round_is_not_about_stay_as_they_are_on_every_client_and_cost_nothing():
    session = build(small("module_wise", *ONE_BLOCK, "run.local_steps=1"))
    assert isinstance(session, Session)
    bank, whole = session.cohort.bank, train_round(session, 0, lambda *_: None).record()
    before = {name: [t.detach().clone() for t in pair.values()] for name, pair in bank.local.items()}
    some = train_round(session, 1, lambda *_: None).record()
    assert whole.blocks == ()
    (block,) = some.blocks
    for site in bank.sites:
        moved = [
            bool((t != old).any()) for t, old in zip(bank.local[site.name].values(), before[site.name], strict=True)
        ]
        assert moved == [site.layer == block] * 2
        assert all(torch.equal(t[0], own) for t in bank.local[site.name].values() for own in t)
        assert all(t.requires_grad for t in bank.local[site.name].values())  # for the next round
    assert some.metered_bits["adapters_up"] * session.cohort.backbone.num_layers == whole.metered_bits["adapters_up"]
    per_token = [sum(r.charged.phases.client_backward_s) / r.tokens for r in (whole, some)]
    assert per_token[1] < per_token[0]
