"""What a step of alignment is charged: a prompt's tokens once, each of its answers' in full."""

from types import SimpleNamespace

import numpy as np
import pytest

from helpers.runs import Silent, small
from wavetune.costs.table import Workload
from wavetune.costs.workload import split_work
from wavetune.federation.objectives import AlignmentSettings, Dpo, Grpo, Ppo
from wavetune.federation.run_folder import RunFolder
from wavetune.runtimes.alignment.here import Step
from wavetune.runtimes.alignment.phase import Aligning, charge
from wavetune.runtimes.session import build

PROMPTS = 3
PROMPT_TOKENS_K, ANSWER_TOKENS_K = (40.0, 90.0, 17.0), [7.0, 12.0, 30.0]


@pytest.fixture(scope="module")
def session():
    return build(small("fedavg_lora"))


def task(objective, **settings):
    learning = AlignmentSettings(objective, steps=2, prompts_per_step=PROMPTS, **settings)
    return SimpleNamespace(settings=SimpleNamespace(learning=learning), prompt_tokens_K=PROMPT_TOKENS_K)


def flop(session, client, lengths, labelled=0):
    """Forward and backward pass of one client over sequences of these lengths, from the first to the last block."""
    table, batch = session.planner.table, Workload.from_lengths(lengths, labelled)
    work = split_work(table, table.num_layers, session.rank_K[client], 0, batch)
    return np.array([float(work.client_forward_flop_K), float(work.client_backward_flop_K)])


def naive(session, client, copies, answer_tokens_K=ANSWER_TOKENS_K):
    """The same of a step, sequence by sequence: a prompt alone, then for each answer what it adds to its prompt."""
    prompt, answer = PROMPT_TOKENS_K[client], answer_tokens_K[client]
    alone = flop(session, client, [prompt])
    added = flop(session, client, [prompt + answer], answer) - alone
    return PROMPTS * (alone + copies * added)


@pytest.mark.parametrize(
    ("objective", "copies", "epochs"),
    [
        (Ppo(answers_per_prompt=1, epochs=1), 1, 1),
        (Ppo(answers_per_prompt=4, epochs=3), 4, 3),
        (Grpo(group_size=6, epochs=2), 6, 2),
    ],
    ids=["one_answer", "four_answers", "a_group"],
)
def test_a_prompt_is_charged_once_and_every_answer_to_it_in_full(session, objective, copies, epochs):
    charged = charge(session, task(objective), {"answer_tokens": ANSWER_TOKENS_K})
    assert_spent(session, charged, [(3 + epochs, epochs) @ naive(session, client, copies) for client in range(3)])


def assert_spent(session, charged, flop_K):
    devices = session.planner.devices
    seconds = max(one / device.flop_per_s for one, device in zip(flop_K, devices, strict=True))
    joules = sum(one * device.energy_j_per_flop for one, device in zip(flop_K, devices, strict=True))
    assert (charged.delay_s, charged.energy_j) == pytest.approx((seconds, joules), rel=1e-9)


def test_pairs_are_charged_two_forward_passes_and_one_backward(session):
    """With LoRA and without: their answers are there."""
    charged = charge(session, task(Dpo(), max_new_tokens=24), {})
    assert_spent(session, charged, [(2, 1) @ naive(session, client, 2, [24.0] * 3) for client in range(3)])


def test_answers_of_pairs_are_charged_at_their_longest(session):
    longest = charge(session, task(Dpo(), max_new_tokens=24), {"answer_tokens": [24.0] * 3})
    assert charge(session, task(Dpo(), max_new_tokens=24), {}) == longest
    assert charge(session, task(Dpo(), max_new_tokens=25), {}).delay_s > longest.delay_s


def test_what_crosses_in_a_step_is_in_its_record_and_nothing_is_due(session, tmp_path):
    alone = task(Dpo())
    alone.settings.evaluate_every = 5
    phase = Aligning(session, RunFolder(tmp_path), Silent(), alone, None)
    phase.work = SimpleNamespace(advance=lambda steps, evaluate: Step())
    session.door.bits["adapters_up", 1] += 64
    assert [phase.round(0).metered_bits for _ in range(2)] == [{"adapters_up": 64}, {}]
