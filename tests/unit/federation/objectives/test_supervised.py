"""Losses of labels against torch's own functions, by themselves and in steps of a cohort."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from helpers.runs import small
from helpers.training import Job, cohort_of, folder_of, random_batches, random_rows, tokens_of
from wavetune.errors import ConfigError
from wavetune.federation.objectives import Focal, Likelihood, SelfDistillation
from wavetune.federation.outputs import ClassOutputs
from wavetune.models.backbone import load_stock_model
from wavetune.models.lora import named_matrices
from wavetune.models.loss import frozen_head_divergence
from wavetune.models.output_layer import OutputLayer
from wavetune.models.ragged import ragged_layout
from wavetune.runtimes.session import build

WHOLE = Job(cut_K=(4, 4, 4), split=False)
TOKENS, ROWS = tokens_of(random_rows()), random_batches(3)[0]


def stepped(objective, job=WHOLE):
    """A cohort after the backward pass of one step, and the step's losses."""
    cohort = cohort_of(job)
    cohort.objective, seen = objective, {}
    cohort.step_clients = lambda *_: seen.update(gradients(cohort))
    result = cohort.step(TOKENS, ROWS, 1.0)
    return result, seen


def gradients(cohort):
    return {name: stack.grad.clone() for name, stack in named_matrices(cohort.bank.local)}


@pytest.mark.parametrize("neutral", [Focal(gamma=0), SelfDistillation(weight=0)])
def test_a_neutral_setting_is_the_likelihood(neutral):
    (wanted, each), (found, mine) = stepped(Likelihood()), stepped(neutral)
    np.testing.assert_allclose(found.loss_K, wanted.loss_K, rtol=1e-12)
    for name, gradient in each.items():
        torch.testing.assert_close(mine[name], gradient, rtol=1e-9, atol=1e-12)


def test_focal_loss_is_that_of_its_formula():
    logits = torch.randn(7, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)
    labels, weight = torch.tensor([0, 1, 2, 3, 4, 0, 1]), torch.linspace(0.1, 1, 7, dtype=torch.float64)
    total, each = Focal(gamma=1.5).losses(ClassOutputs(logits, labels), weight)
    prob = F.softmax(logits, 1)[torch.arange(7), labels]
    wanted = -((1 - prob) ** 1.5) * prob.log()
    torch.testing.assert_close(each, wanted.detach())
    torch.testing.assert_close(
        *(torch.autograd.grad(one, logits)[0] for one in (total, (wanted * weight).sum())), rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("softcap", [None, 4.0])
def test_divergence_and_its_gradient_are_those_of_torch(softcap):
    generator = torch.Generator().manual_seed(2)
    states, teacher, head = (torch.randn(n, 6, generator=generator, dtype=torch.float64) for n in (9, 9, 11))
    weight, layer = torch.rand(9, generator=generator, dtype=torch.float64), OutputLayer(head, softcap=softcap)
    states.requires_grad_()
    total, each = frozen_head_divergence(states, teacher, layer, weight, 2.0)
    logs = [F.log_softmax(layer.logits(one)[0] / 2.0, -1) for one in (states, teacher)]
    wanted = F.kl_div(*logs, reduction="none", log_target=True).sum(-1)
    torch.testing.assert_close(each, wanted.detach())
    torch.testing.assert_close(
        *(torch.autograd.grad(one, states)[0] for one in (total, (wanted * weight).sum())), rtol=1e-9, atol=1e-12
    )


def test_a_model_is_distilled_from_what_it_is_without_adapters():
    found, _ = stepped(SelfDistillation(weight=1.0, temperature=3.0))
    stock = load_stock_model(folder_of("tiny"), torch.float64)
    own = cohort_of(WHOLE)
    for client, rows in enumerate(ROWS):
        divergences = list[torch.Tensor]()
        for row in rows:
            ids, start = torch.from_numpy(TOKENS.row(int(row)).astype(np.int64)), int(TOKENS.label_start[row])
            with torch.no_grad():
                plain = stock(input_ids=ids[None]).logits[0, start - 1 : -1]
                adapted = logits_of(own, client, ids)[start - 1 : -1]
            logs = (F.log_softmax(one / 3.0, -1) for one in (adapted, plain))
            divergences.append(9.0 * F.kl_div(*logs, reduction="none", log_target=True).sum(-1))
        np.testing.assert_allclose(found.loss_K[client], float(torch.cat(divergences).mean()), rtol=1e-6)


def logits_of(cohort, client, ids):
    backbone = cohort.backbone
    hidden = backbone.forward(ids, ragged_layout([len(ids)], "cpu"), cohort.bank, [client], [len(ids)])
    return backbone.head.logits(backbone.final_norm(hidden))[0]


def test_an_untouched_pass_is_charged():
    flop = [
        build(small("fedavg_lora", f"method.objective={kind}")).planner.layer_costs.forward_flop_L.sum()
        for kind in ("likelihood", "self_distillation")
    ]
    assert flop[1] == pytest.approx(2 * flop[0])


@pytest.mark.parametrize(
    ("recipe", "setting", "words"),
    [
        ("sflllm", "method.objective=self_distillation", "method.objective self_distillation needs a pass through the"),
        ("prompts", "method.objective=self_distillation", "which method.soft_prompt does not give"),
        ("pwff_task", "method.objective=self_distillation", "world.data has classes; set method.objective=likelihood"),
        ("fedavg_lora", "method.objective=ppo", "method.objective.kind is 'ppo'"),
    ],
)
def test_what_an_objective_cannot_be_computed_with_is_refused(recipe, setting, words):
    model = ('world.model="tiny-bert"',) if recipe == "pwff_task" else ()
    with pytest.raises(ConfigError, match=words.replace(".", r"\.")):
        build(small(recipe, *model, setting))
