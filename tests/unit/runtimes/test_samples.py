"""Sample answers come from the run's own model, whatever its adapters are."""

from typing import Any

import numpy as np
import pytest

from helpers.runs import EXACT, small
from wavetune.data.templates import prompt_ids
from wavetune.errors import ConfigError
from wavetune.models import stock
from wavetune.models.generate import generate, load_for_generation
from wavetune.runtimes import samples
from wavetune.runtimes.export import adapter_name, write_models
from wavetune.runtimes.session import build, client_factors

RUNS = {
    "lora": ("sflllm",),
    "bottleneck": ("fedavg_lora", "method.bottleneck.width=4"),
    "prompt": ("prompts", "method.soft_prompt.tokens=4"),
    "prompt_in_stock_attention": ("prompts", "method.soft_prompt.tokens=4", 'world.model="tiny-gpt2"'),
    "last_block": ("fedavg_lora", "method.sharing.trained_layers=1"),
}


@pytest.mark.parametrize("name", RUNS)
def test_they_are_those_of_the_exported_adapters_in_the_stock_model(name, tmp_path, monkeypatch):
    recipe, *settings = RUNS[name]
    session: Any = build(small(recipe, *EXACT[1:], *settings, "run.samples=3", "run.sample_tokens=6"))
    rng, bank = np.random.default_rng(0), session.cohort.bank
    factors = {
        site: {name: t + t.new_tensor(rng.normal(size=t.shape)) for name, t in pair.items()}
        for site, pair in client_factors(bank, 0).items()
    }
    write_models(tmp_path, {None: factors}, session.cohort, session.data, session.model.folder)
    wanted, folder = [], tmp_path / "adapters" / adapter_name(None)
    for adapter in (None, folder):
        model = load_for_generation(session.model.folder, adapter)
        examples = [example for example, _ in samples.samples_of(session)]
        prompts = prompt_ids(examples, session.tokenizer, session.recipe.world.data.template)
        wanted.append(generate(model, session.tokenizer, prompts, 6, ends=session.data.ends))
    monkeypatch.setattr(stock, "load_stock_model", None)
    monkeypatch.setattr("transformers.PreTrainedModel.from_pretrained", None)
    assert [samples.answers_of(session, where) for where in (None, tmp_path / "adapters")] == wanted
    assert wanted[0] != wanted[1]


def test_samples_that_leave_no_room_for_a_prompt_are_refused_by_their_field():
    session: Any = build(small("fedavg_lora", "run.samples=1", "run.sample_tokens=600"))
    with pytest.raises(ConfigError, match=r"run\.sample_tokens is 600 but the model takes 512 tokens.*at most 510"):
        samples.answers_of(session, None)


def test_targets_that_the_model_lacks_are_refused_by_their_field():
    with pytest.raises(ConfigError, match=r"method\.lora\.targets has 'q_prok'.*did you mean .*'q_proj'"):
        build(small("fedavg_lora", 'method.lora.targets=["q_prok"]'))
