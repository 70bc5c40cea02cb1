"""What a run leaves behind loads with stock PEFT and does there what the run reported."""

import json
import warnings

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from helpers.adapters import pair_of
from helpers.runs import read_json, read_rounds, small, train
from helpers.training import folder_of, stock_loss
from wavetune.models.backbone import load_stock_model
from wavetune.models.lora import AdapterBank
from wavetune.runtimes.session import build

RUNS = {
    "split": small("sflllm", "run.samples=0"),
    "gpt2_mixed_cuts_and_ranks": small(
        "sflllm",
        'world.model="tiny-gpt2"',
        "method.topology.cut=[1,4,2]",
        "method.lora.rank=[2,8,1]",
        "method.optimiser.learning_rate=0.02",
        "run.samples=0",
    ),
    "gpt2_federated_product": small(
        "fedavg_lora", 'world.model="tiny-gpt2"', "method.mixing.kind=average_product", "run.samples=0"
    ),
    "labels_at_clients_other_targets": small(
        "sflllm",
        "method.topology.labels=client",
        'method.lora.targets=["o_proj","down_proj"]',
        "method.lora.rank=4",
        "run.samples=0",
    ),
    "central": small("centralised_lora", "run.samples=0"),
}


@pytest.fixture(scope="module", params=RUNS)
def finished(request, tmp_path_factory):
    recipe, folder = RUNS[request.param], tmp_path_factory.mktemp(request.param) / "run"
    return recipe, folder, train(recipe, folder), build(recipe)


def loaded(recipe, adapter):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return PeftModel.from_pretrained(load_stock_model(folder_of(recipe.world.model)), str(adapter)).eval()


@torch.no_grad()
def stock_validation_loss(model, tokens):
    labelled = tokens.labelled
    losses = [float(stock_loss(model, tokens, [row])) * labelled[row] for row in range(len(tokens))]
    return sum(losses) / labelled.sum()


def test_global_adapter_in_peft_gives_the_reported_validation_loss(finished):
    recipe, folder, summary, session = finished
    validation = session.data.validation
    after = stock_validation_loss(loaded(recipe, folder / "adapters" / "global"), validation)
    before = stock_validation_loss(load_stock_model(folder_of(recipe.world.model)), validation)
    assert after == pytest.approx(summary["validation_loss"]["after"], rel=1e-5)
    assert before == pytest.approx(summary["validation_loss"]["before"], rel=1e-5)
    assert abs(after - before) > 1e-3
    assert summary["perplexity"]["after"] == pytest.approx(np.exp(after), rel=1e-4)


def test_each_clients_adapter_in_peft_acts_as_it_did_in_the_run(finished):
    recipe, folder, _, session = finished
    clients = sorted(p.name for p in (folder / "adapters").iterdir() if p.name != "global")
    assert clients == ([] if session.central else ["client-00", "client-01", "client-02"])
    bank, validation, seen = session.cohort.bank, session.data.validation, set()
    for name in clients:
        factors = read_factors(folder / "adapters" / name, bank.sites)
        own = AdapterBank(bank.sites, np.zeros((4, 1), bool), bank.scale, {}, factors)
        loss = session.cohort.evaluate(validation, own).loss()
        assert stock_validation_loss(loaded(recipe, folder / "adapters" / name), validation) == pytest.approx(
            loss, rel=1e-5
        )
        seen.add(round(loss, 5))
    assert len(seen) == len(clients)  # they trained on rows of their own


def read_factors(folder, sites):
    tensors = load_file(folder / "adapter_model.safetensors")
    return {
        site.name: pair_of(
            *(tensors[f"base_model.model.{site.name}.lora_{factor}.weight"].t()[None] for factor in "AB")
        )
        for site in sites
    }


def test_global_adapter_is_the_weighted_mean_of_the_clients(finished):
    recipe, folder, _, session = finished
    if session.central or recipe.method.mixing.kind != "average_factors":
        pytest.skip("only averaged factors are a mean of factors")
    whole = load_file(folder / "adapters" / "global" / "adapter_model.safetensors")
    own = [load_file(folder / "adapters" / f"client-{k:02d}" / "adapter_model.safetensors") for k in range(3)]
    weights = [len(rows) / len(session.data.train) for rows in session.data.rows_by_client]
    for name, value in whole.items():
        mean = sum(w * client[name] for w, client in zip(weights, own, strict=True))
        torch.testing.assert_close(value, mean, rtol=0, atol=1e-6)


def test_last_record_holds_the_loss_that_the_summary_reports(finished):
    _, folder, summary, _ = finished
    assert read_rounds(folder)[-1]["validation_loss"] == summary["validation_loss"]["after"]
    assert read_json(folder / "summary.json") == json.loads(json.dumps(summary))
