from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.alignment import (
    CHARACTERS,
    FAST,
    SETTINGS,
    alignment,
    constant,
    fresh_bank,
    prompts_of,
    random_bank,
    with_objective,
)
from helpers.training import folder_of
from wavetune.data.examples import Example, PreferencePair
from wavetune.errors import ConfigError, DataError, NumericsError
from wavetune.federation.adapters.bottleneck import Bottleneck
from wavetune.federation.alignment import Alignment, Client, ClientPairs, Model, Rewards, reward_learning
from wavetune.federation.alignment.answers import Sample, answers_of, measured, passes
from wavetune.federation.alignment.evaluation import foreign_prompts
from wavetune.federation.alignment.rewards import Mixture
from wavetune.federation.objectives import AlignmentSettings, Dpo, Grpo, Ppo
from wavetune.models.backbone import load_backbone, load_tokenizer
from wavetune.models.lora import new_bank
from wavetune.records.alignment import Answers, HeldOut

KIND = PreferencePair("ask", "yes", "no")
CLIENTS = tuple(Client(k, 1.0 - k, tuple(own)) for k, own in enumerate(prompts_of((0, 1))))


def test_a_record_tells_of_every_client_what_the_step_was_like():
    rewards = replace(CHARACTERS, truth={"helpful": constant(0.25)})
    record = alignment(random_bank((0, 1)), [1.0, 0.0], rewards=rewards).step()
    assert set(record) == {
        "reward", "helpful", "safe", "true_helpful", "kl", "kl_coefficient", "answer_tokens", "ended", "entropy",
        "policy_loss", "clip_fraction", "value_loss", "distance",
    }  # fmt: skip
    assert record["true_helpful"].tolist() == [0.25, 0.25]
    assert (record["kl"] > 0).all()
    assert (record["answer_tokens"] <= SETTINGS.max_new_tokens).all()


def test_only_lora_is_trained_and_bottlenecks_stay_as_they_are():
    backbone = load_backbone(folder_of("tiny"), ("q_proj",), adapters=[Bottleneck(width=4)])
    own = np.ones((backbone.num_layers, 2), bool)
    bank = new_bank(backbone.sites, own, [4, 4], 4, 8.0, 0)
    frozen = bank.only(("bottleneck",))
    with torch.no_grad():
        for parameter in bank.parameters(local=True):
            parameter.copy_(torch.randn_like(parameter) * 0.1)
    before = [p.detach().clone() for p in frozen.parameters(local=True)]
    found = Alignment(Model(backbone, bank, load_tokenizer(folder_of("tiny"))), CLIENTS, CHARACTERS, SETTINGS, 0)
    lora = [p.detach().clone() for p in found.learner.lora.parameters(local=True)]
    found.step()
    for now, then in zip(frozen.parameters(local=True), before, strict=True):
        assert torch.equal(now, then)
        assert now.grad is None
    assert not any(torch.equal(n, t) for n, t in zip(found.learner.lora.parameters(local=True), lora, strict=True))


def test_a_step_draws_every_prompt_once_before_any_twice():
    settings = replace(SETTINGS, prompts_per_step=3)
    seen: list[list[str]] = [[], []]

    def watched(examples, texts):
        for example in examples:
            seen[int(example.domain[-1])].append(example.prompt)
        return [0.0] * len(texts)

    found = alignment(fresh_bank(2), [0.5, 0.5], settings, Rewards(watched, constant(0.0)))
    for _ in range(3):
        found.step()
    for client, own in enumerate(prompts_of((0, 1))):
        assert sorted(seen[client]) == sorted(example.prompt for example in own)


def test_what_is_measured_while_answers_are_drawn_is_what_a_pass_over_them_finds():
    learner = alignment(random_bank((0, 1)), [1.0, 0.0]).learner
    with torch.no_grad():
        for parameter in learner.values.parameters(local=True):
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)))
    found = answers_of(learner, prompts_of((0, 1)), "answers", 0, measure=True)
    temperature = learner.settings.temperature
    wanted = measured(learner.backbone, learner.policy, found.samples, 40, learner.values, temperature)
    np.testing.assert_allclose(found.measured, wanted, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("bf16", "passes"), [(False, 1), (True, 2)])
def test_a_policy_whose_products_are_rounded_is_measured_again_in_passes(bf16, passes, monkeypatch):
    backbone = load_backbone(folder_of("tiny"), ("q_proj",), bf16)
    bank = new_bank(backbone.sites, np.ones((backbone.num_layers, 2), bool), [4, 4], 4, 8.0, 0)
    found = Alignment(Model(backbone, bank, load_tokenizer(folder_of("tiny"))), CLIENTS, CHARACTERS, SETTINGS, 0)
    seen = list[int]()
    monkeypatch.setattr(reward_learning, "measured", lambda *given: seen.append(len(given[2])) or measured(*given))
    found.step()
    assert len(seen) == passes


def test_of_all_dpo_pairs_the_share_lambda_is_helpful():
    pairs = ClientPairs((PreferencePair("helpful", "a", "b"),), (PreferencePair("harmless", "a", "b"),))
    settings = with_objective(Dpo(), prompts_per_step=3)
    found = alignment(fresh_bank(2), [0.25, 1.0], settings, None, pairs_by_client=[pairs, pairs])
    drawn = [[], []]
    for _ in range(8):
        for client in range(2):
            drawn[client] += [pair.prompt for pair in found.learning._drawn(client)]
        found.learner.steps_done += 1
    assert [own.count("helpful") for own in drawn] == [6, 24]
    assert [len(own) for own in drawn] == [24, 24]


def test_rewards_of_any_scale_count_alike_and_by_lambda():
    mixture = Mixture.of(np.array([0.75, 0.0]))
    client_S = np.array([0, 0, 0, 1, 1, 1])
    helpful, safe = np.array([1.0, 2, 3, 5, 5, 5]), np.array([300.0, 200, 100, 30, 10, 20])
    mixed = mixture.mix({"helpful": helpful, "safe": safe}, client_S)
    unit = np.sqrt(1.5)
    np.testing.assert_allclose(mixed, [-0.5 * unit, 0, 0.5 * unit, unit, -unit, 0], atol=1e-12)
    numbers = mixture.numbers()
    other = Mixture.of(np.array([0.75, 0.0]))
    other.restore(numbers)
    np.testing.assert_array_equal(other.numbers(), numbers)
    np.testing.assert_allclose(numbers[0, 0], [3, 2, 2])


def test_passes_hold_what_fits_and_never_part_what_belongs_together():
    samples = [Sample(0, (i,) * n, (2,)) for i, n in enumerate((4, 4, 9, 1, 1, 1))]
    assert [(p.start, p.stop) for p in passes(samples, 8)] == [(0, 2), (2, 3), (3, 6)]
    assert [(p.start, p.stop) for p in passes(samples, 10, together=2)] == [(0, 2), (2, 4), (4, 6)]
    assert [(p.start, p.stop) for p in passes(samples, 1)] == [(i, i + 1) for i in range(6)]
    assert list(passes([], 8)) == []


def test_answers_to_one_prompt_share_its_tokens_in_a_pass():
    samples = [Sample(0, (1, 2, 3, 4), (5,) * n) for n in (3, 1, 4)] + [Sample(1, (1, 2, 3, 4), (5, 5))]
    assert [(p.start, p.stop) for p in passes(samples, 9)] == [(0, 3), (3, 4)]
    assert [(p.start, p.stop) for p in passes(samples, 8)] == [(0, 2), (2, 3), (3, 4)]
    assert [(p.start, p.stop) for p in passes(samples, 14)] == [(0, 4)]
    two_prompts = [Sample(0, (k, 2, 3, 4), (5,) * n) for k in (1, 6) for n in (3, 1, 4)]
    assert [(p.start, p.stop) for p in passes(two_prompts, 15)] == [(0, 3), (3, 6)]  # the first and a part would fit


def test_an_evaluation_repeats_its_draws_and_knows_own_from_foreign():
    found = alignment(random_bank((5, 6)), [1.0, 0.5], identities=(5, 6))
    own = prompts_of((5, 6), 3, "held out")
    foreign = foreign_prompts(own, 2, seed=0)
    one, other = found.evaluate(own, foreign), found.evaluate(own, foreign)
    assert [s.answers for s in one.own] == [s.answers for s in other.own]
    assert [len(s.answers) for s in one.foreign] == [2, 2]
    assert {prompt.split()[2] for prompt in one.foreign[0].prompts} == {"6"}
    greedy = found.evaluate(own, temperature=0.0)
    assert greedy.foreign == ()
    assert [s.answers for s in greedy.own] != [s.answers for s in one.own]


def test_foreign_prompts_are_of_other_domains_where_there_are_some():
    held = [[Example(f"{k}{i}", "", d) for i, d in enumerate(domains)] for k, domains in enumerate(("ab", "bc", "cc"))]
    chosen = foreign_prompts(held, 9, seed=1)
    assert [sorted(e.prompt for e in own) for own in chosen] == [["11", "20", "21"], ["00"], ["00", "01", "10"]]
    alike = [[Example(f"{k}{i}", "") for i in range(2)] for k in range(2)]
    assert [sorted(e.prompt for e in own) for own in foreign_prompts(alike, 9, seed=1)] == [["10", "11"], ["00", "01"]]


def test_the_gain_compares_prompt_by_prompt_in_deviations_of_the_answers_before():
    def scores(helpful, safe):
        return Answers(("p", "q"), ("", ""), {"helpful": (*map(float, helpful),), "safe": (*map(float, safe),)})

    before = HeldOut((scores([0, 4], [0, 2]), scores([0, 4], [0, 2])))
    after = HeldOut((scores([2, 4], [0, 2]), scores([0, 4], [1, 3])))
    first, second = after.mixed_gain(before, [0.5, 0.0])
    assert first.mean == pytest.approx(0.5 * (1 + 0) / 2)
    students_t = 12.706204736432095  # 97.5 % point for two prompts
    assert first.half_width_95 == pytest.approx(students_t * np.std([0.5, 0], ddof=1) / np.sqrt(2))
    assert (second.mean, second.half_width_95) == (pytest.approx(1.0), 0.0)


@pytest.mark.parametrize(
    ("clients", "change", "error", "words"),
    [
        (CLIENTS[:1], {}, ConfigError, "1 clients of 1 identities, but adapters of 2"),
        (CLIENTS[:1] * 2, {}, ConfigError, "2 clients of 1 identities, but adapters of 2"),
        ((CLIENTS[0], replace(CLIENTS[1], helpful=1.5)), {}, ConfigError, "lambda of client 1 is 1.5"),
        ((CLIENTS[0], replace(CLIENTS[1], prompts=())), {}, DataError, "client 1 has no prompts"),
        (CLIENTS, {"rewards": None}, ConfigError, "objective 'ppo' learns from rewards"),
        (CLIENTS, {"settings": with_objective(Dpo())}, DataError, "client 0 has no helpful pairs"),
        (
            [replace(client, helpful=0.5, pairs=ClientPairs((KIND,))) for client in CLIENTS],
            {"settings": with_objective(Dpo())},
            DataError,
            "client 0 has no harmless pairs to learn from, but lambda 0.5",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(clients, change, error, words):
    backbone = load_backbone(folder_of("tiny"), ("q_proj",))
    bank = new_bank(backbone.sites, np.ones((backbone.num_layers, 2), bool), [4, 4], 4, 8.0, 0)
    with pytest.raises(error, match=words):
        Alignment(
            Model(backbone, bank, load_tokenizer(folder_of("tiny"))),
            clients,
            **{"rewards": CHARACTERS, "settings": SETTINGS, "seed": 0} | change,
        )


def test_shared_lora_is_refused():
    backbone = load_backbone(folder_of("tiny"), ("q_proj",))
    bank = new_bank(backbone.sites, np.zeros((backbone.num_layers, 2), bool), [4, 4], 4, 8.0, 0)
    with pytest.raises(ConfigError, match="clients share some block's"):
        Alignment(Model(backbone, bank, load_tokenizer(folder_of("tiny"))), CLIENTS, CHARACTERS, SETTINGS, 0)


def test_training_prompts_are_no_held_out_prompts():
    found = alignment(fresh_bank(1), [0.5])
    with pytest.raises(DataError, match="client 0 was to be evaluated on a prompt that it is trained on"):
        found.evaluate([[*prompts_of((0,), 2, "held out")[0], prompts_of((0,))[0][3]]])


def test_a_reward_must_be_one_finite_number_for_each_answer():
    for wrong in (lambda examples, texts: [0.5], lambda examples, texts: [float("nan")] * len(texts)):
        found = alignment(fresh_bank(1), [0.5], rewards=Rewards(wrong, constant(1.0)))
        with pytest.raises(NumericsError, match="the score 'helpful' must give one finite number for each of 4"):
            found.step()


def test_a_diverging_client_is_named():
    bank = random_bank((3, 4))
    found = alignment(
        bank, [0.5, 0.5], with_objective(Dpo()), None, (3, 4), pairs_by_client=[ClientPairs((KIND,), (KIND,))] * 2
    )
    with torch.no_grad():
        found.learner.lora.local[found.learner.lora.sites[-1].name]["B"][1] = float("nan")
    with pytest.raises(NumericsError, match="client 4 at alignment step 0 is nan"):
        found.step()


def test_settings_ask_for_no_more_minibatches_than_answers():
    with pytest.raises(ConfigError, match="minibatches is 5, but a step has 4 answers"):
        AlignmentSettings(Ppo(answers_per_prompt=2, minibatches=5), prompts_per_step=2, optimiser=FAST)
    assert AlignmentSettings(Grpo(group_size=3, minibatches=5), prompts_per_step=4).answers_per_step == 12
    assert AlignmentSettings(Dpo(), prompts_per_step=4).answers_per_step == 8
