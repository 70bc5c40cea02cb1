from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from wavetune import foreign
from wavetune.data.examples import Example
from wavetune.errors import ConfigError, ModelError, NumericsError
from wavetune.federation import reward_models
from wavetune.federation.reward_models import RewardModel, reward_backbone
from wavetune.federation.rewards import EmbeddedReward, HubClassifier, PythonReward, RewardPart, TrainedReward
from wavetune.models.resolve import resolve_model
from wavetune.models.reward import reward_bank
from wavetune.part_values import read_part, values_of

EXAMPLES = [Example("Where?", ""), Example("When does the bar close tonight?", ""), Example("Who?", "")]
ANSWERS = ["In the garden, behind the old chapel.", "At nine.", "I may not say."]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return resolve_model("tiny", tmp_path_factory.mktemp("cache")).folder


@pytest.fixture(scope="module")
def reward(folder):
    return opened(folder)


def opened(folder):
    backbone, tokenizer, _ = reward_backbone(str(folder), None, "cpu", False)
    bank = reward_bank(backbone, 4, 8.0, 0)
    with torch.no_grad():
        for pair in bank.local.values():
            pair["B"].normal_(0, 0.2, generator=torch.Generator().manual_seed(1))
    return RewardModel("tiny", backbone, tokenizer, bank, 64)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """Function that writes a random stock classifier with the given labels; returns its folder."""
    base = resolve_model("tiny-bert", tmp_path_factory.mktemp("cache")).folder

    def write(*labels, base=base):
        folder = tmp_path_factory.mktemp("classifier")
        config = AutoConfig.from_pretrained(base, num_labels=len(labels), id2label=dict(enumerate(labels)))
        torch.manual_seed(0)
        AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
        AutoTokenizer.from_pretrained(base).save_pretrained(folder)
        return folder

    return write


def test_threads_whose_passes_go_on_at_once_score_as_one_after_the_other(folder, reward):
    met = Barrier(2)

    def meet(*_):
        met.wait(30)

    def score(answer):
        own = opened(folder)
        own.backbone.blocks[0].register_forward_pre_hook(meet)
        return own.score(EXAMPLES[:1], [answer])

    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(score, ANSWERS[:2]))
    for scores, answer in zip(found, ANSWERS, strict=False):
        np.testing.assert_allclose(scores, reward.score(EXAMPLES[:1], [answer]), atol=1e-6)


def test_a_reward_model_that_is_stored_in_bf16_is_opened_as_it_is(tmp_path, monkeypatch):
    base, opened = resolve_model("tiny-bert", tmp_path / "cache").folder, list[torch.dtype]()
    AutoModel.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path)
    load = reward_models.load_stock_model

    def noted(folder, dtype, **options):
        opened.append(dtype)
        return load(folder, dtype, **options)

    monkeypatch.setattr(reward_models, "load_stock_model", noted)
    backbone, tokenizer, _ = reward_backbone(str(tmp_path), None, "cpu", True)
    scores = RewardModel("narrow", backbone, tokenizer, reward_bank(backbone, 4, 8.0, 0), 64).score(EXAMPLES, ANSWERS)
    assert opened == [torch.bfloat16]
    assert np.isfinite(scores).all()


def test_scores_do_not_depend_on_what_else_is_scored_or_on_the_order(reward, monkeypatch):
    together = reward.score(EXAMPLES, ANSWERS)
    alone = [reward.score([e], [a])[0] for e, a in zip(EXAMPLES, ANSWERS, strict=True)]
    backwards = reward.score(EXAMPLES[::-1], ANSWERS[::-1])[::-1]
    assert np.ptp(together) > 1e-3
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(together, backwards, atol=1e-5)
    monkeypatch.setattr("wavetune.federation.reward_models._TOKENS_PER_PASS", 1)
    np.testing.assert_allclose(reward.score(EXAMPLES, ANSWERS), alone, atol=1e-5)


def test_no_answers_have_no_scores(reward):
    assert reward.score([], []).shape == (0,)


@pytest.mark.parametrize(("labels", "label"), [(("bad", "good", "neutral"), "good"), (("score",), None)])
def test_a_stock_classifier_scores_as_stock_transformers_does(classifier, labels, label):
    folder = classifier(*labels)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    expected = []
    for example, text in zip(EXAMPLES, ANSWERS, strict=True):
        with torch.no_grad():
            logits = model(**tokenizer(example.prompt, text, return_tensors="pt")).logits[0].double()
        p = logits.softmax(0)
        expected.append(float(logits[0] if label is None else torch.log(p[1] / (1 - p[1]))))
    found = HubClassifier(str(folder), label).open().score(EXAMPLES, ANSWERS)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_decoder_without_padding_scores_one_answer_at_a_time(classifier, tmp_path):
    folder = classifier("bad", "good", base=resolve_model("tiny", tmp_path).folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"pad_token_id": None}))
    reward = HubClassifier(str(folder), "good").open()
    alone = [float(reward.score([e], [a])[0]) for e, a in zip(EXAMPLES, ANSWERS, strict=True)]
    assert reward.score(EXAMPLES, ANSWERS).tolist() == alone
    assert np.ptp(alone) > 1e-4


def test_a_classifier_may_read_the_answer_alone(classifier):
    reads = HubClassifier(str(classifier("a", "b")), "a", "answer").open()
    one = reads.score([EXAMPLES[0]], ["Hello."])
    assert reads.score([EXAMPLES[1]], ["Hello."]) == pytest.approx(one)
    assert reads.score([EXAMPLES[0]], ["Goodbye."]) != pytest.approx(one)


def test_long_texts_are_cut_to_what_a_classifier_takes(classifier):
    folder = str(classifier("score"))
    assert np.isfinite(HubClassifier(folder).open().score([Example("why? " * 200, "")], ["Because."])).all()
    assert np.isfinite(HubClassifier(folder, reads="answer").open().score([Example("", "")], ["So. " * 300])).all()
    with pytest.raises(ConfigError, match="takes 512 tokens and an answer has more"):
        HubClassifier(folder).open().score([Example("Why?", "")], ["So. " * 300])


def test_a_label_that_is_not_there_is_refused_with_the_nearest(classifier):
    with pytest.raises(ConfigError, match=r"has no label 'god'; did you mean 'good'\?"):
        HubClassifier(str(classifier("bad", "good")), "god").open()


def test_a_model_without_a_classifier_is_refused(tmp_path):
    folder = resolve_model("tiny-bert", tmp_path).folder
    with pytest.raises(ModelError, match=r"is no sequence classifier: it holds no weights for classifier"):
        HubClassifier(str(folder)).open()


def test_a_function_of_the_users_is_imported_from_a_module_or_a_file(tmp_path):
    (tmp_path / "mine.py").write_text("def words(examples, answers):\n    return [len(a.split()) for a in answers]\n")
    reward = PythonReward(f"{tmp_path}/mine.py:words").open()
    assert reward.score(EXAMPLES, ANSWERS).tolist() == [7.0, 2.0, 4.0]
    assert reward.score(EXAMPLES, ANSWERS).dtype == np.float64
    with pytest.raises(ValueError, match="is no prompt of the concierge"):
        PythonReward("wavetune.data.concierge_truth:helpful").open().score(EXAMPLES, ANSWERS)


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        ("", "is named module:function"),
        ("nowhere", "is named module:function"),
        ("nowhere_at_all:f", "cannot import the reward 'nowhere_at_all:f': ModuleNotFoundError"),
        ("./no/such/file.py:f", "cannot import the reward"),
        ("wavetune.data.concierge_truth:helpfu", "has no function 'helpfu'"),
    ],
)
def test_a_function_that_cannot_be_imported_is_named(function, sentence):
    with pytest.raises(ConfigError, match=sentence):
        PythonReward(function).open()


@pytest.mark.parametrize(
    ("body", "error", "sentence"),
    [
        ("[1.0]", ConfigError, r"shape \(1,\) for 3 answers"),
        ("'many'", ConfigError, "must return a number for each answer"),
        ("[1.0, float('nan'), 2.0]", NumericsError, "gave nan to the answer 'At nine.'"),
    ],
)
def test_what_a_function_returns_is_checked(tmp_path, body, error, sentence):
    (tmp_path / "mine.py").write_text(f"def f(examples, answers):\n    return {body}\n")
    with pytest.raises(error, match=sentence):
        PythonReward(f"{tmp_path}/mine.py:f").open().score(EXAMPLES, ANSWERS)


def test_a_folder_without_a_reward_model_is_refused(tmp_path):
    with pytest.raises(ModelError, match="holds no reward model"):
        TrainedReward(str(tmp_path)).open()
    (tmp_path / "reward.json").write_text("{}")
    with pytest.raises(ModelError, match=r"reward\.json is incomplete"):
        TrainedReward(str(tmp_path)).open()


def test_parts_survive_json_and_are_told_apart_by_kind():
    parts = (EmbeddedReward(preference="harmless"), TrainedReward("a"), HubClassifier("b", "c"), PythonReward("d:e"))
    assert read_part(tuple[RewardPart, ...], values_of(parts)) == parts
    kinds = [{"kind": "embedded"}, {"kind": "trained"}, {"kind": "classifier"}, {"kind": "python"}]
    assert [type(part) for part in read_part(tuple[RewardPart, ...], kinds)] == [type(part) for part in parts]


@pytest.mark.parametrize("body", ["import sys; sys.exit(7)", "raise BaseException('no')", "raise GeneratorExit"])
def test_a_module_that_would_end_the_command_is_refused(tmp_path, body):
    (tmp_path / "mine.py").write_text(body + "\n")
    with pytest.raises(ConfigError, match="cannot import the reward"):
        PythonReward(function=f"{tmp_path / 'mine.py'}:f").open()


def test_a_module_that_never_ends_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(foreign, "LONGEST_IMPORT_S", 0.05)
    (tmp_path / "mine.py").write_text("import time\nfor _ in range(20): time.sleep(0.1)\n")
    with pytest.raises(ConfigError, match=r"has not ended after 0\.05 s"):
        PythonReward(function=f"{tmp_path / 'mine.py'}:f").open()


@pytest.mark.parametrize("function", ["os:system", "builtins:exec", "subprocess:run", "os.path:join"])
def test_functions_of_pythons_own_library_are_no_rewards(function):
    with pytest.raises(ConfigError, match="Python's own library"):
        PythonReward(function=function).open()


@pytest.mark.parametrize("body", ["def f(answer): return 1.0", "def f(): return []", "def f(a, b, c): return []"])
def test_a_function_that_cannot_be_called_with_examples_and_answers_is_refused_before_it_is_called(tmp_path, body):
    (tmp_path / "mine.py").write_text(body + "\n")
    with pytest.raises(ConfigError, match="a list of examples and a list of answers"):
        PythonReward(function=f"{tmp_path / 'mine.py'}:f").open()


def test_a_function_that_would_end_the_command_is_refused(tmp_path):
    (tmp_path / "mine.py").write_text("import sys\ndef f(examples, answers): sys.exit(7)\n")
    with pytest.raises(ConfigError, match="failed: SystemExit: 7"):
        PythonReward(function=f"{tmp_path / 'mine.py'}:f").open().score(EXAMPLES, ANSWERS)
