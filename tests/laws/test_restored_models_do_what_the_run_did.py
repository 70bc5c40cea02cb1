"""What a run leaves behind, restored without wavetune's engine, does on validation rows what the run reported."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from helpers.runs import Silent, read_rounds, small, train
from helpers.training import folder_of, stock_loss
from wavetune.models.restore import load_adapted
from wavetune.runtimes.inprocess import run
from wavetune.runtimes.session import build

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

BOTTLENECKS = ("method.bottleneck.width=6", 'method.bottleneck.places=["attention","feed_forward"]', "run.samples=0")


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """Texts of two classes that a byte model can tell apart."""
    path, rng = tmp_path_factory.mktemp("data") / "colours.jsonl", np.random.default_rng(0)
    words = {"red": "abcd", "blue": "wxyz"}
    rows = [
        {"text": "".join(rng.choice(list(letters), rng.integers(4, 20))), "label": label}
        for label, letters in words.items()
        for _ in range(60)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.mark.parametrize("model", ["tiny-bert", "tiny-gpt2"])
def test_restored_classifier_has_the_loss_and_accuracy_of_the_run(model, colours, tmp_path):
    settings = (f'world.model="{model}"', f'world.data.source="{colours}"', "world.data.template.kind=class")
    recipe = small("fedavg_lora", *settings, *BOTTLENECKS, "method.optimiser.learning_rate=0.05")
    train(recipe, tmp_path / "run")
    reported = read_rounds(tmp_path / "run")[-1]["evaluation"]
    restored = load_adapted(folder_of(model), tmp_path / "run" / "adapters" / "global")
    validation = build(recipe).data.validation
    logits = torch.cat([restored(row_of(validation, i)).detach() for i in range(len(validation))])
    classes = torch.tensor(validation.classes)
    assert F.cross_entropy(logits, classes).item() == pytest.approx(reported["loss"], abs=1e-4)
    assert (logits.argmax(1) == classes).float().mean().item() == pytest.approx(reported["accuracy"])
    assert restored.labels == ("blue", "red")


def test_restored_clients_have_the_losses_of_their_own_models(colours, tmp_path):
    settings = ('world.model="tiny-bert"', f'world.data.source="{colours}"', "world.data.template.kind=class")
    more = ('method.sharing.shared=["bottleneck"]', "method.optimiser.learning_rate=0.05")
    observer = Silent()
    run(small("fedavg_lora", *settings, *BOTTLENECKS, *more), tmp_path / "run", observer)
    cohort, validation = observer.session.cohort, observer.session.data.validation
    reported, seen = read_rounds(tmp_path / "run")[-1]["evaluation"], set()
    for client in range(3):
        restored = load_adapted(folder_of("tiny-bert"), tmp_path / "run" / "adapters" / f"client-{client:02d}")
        logits = torch.cat([restored(row_of(validation, i)).detach() for i in range(len(validation))])
        losses = F.cross_entropy(logits, torch.tensor(validation.classes), reduction="none")
        wanted = cohort.evaluate(validation, cohort.bank, client).nll_R
        np.testing.assert_allclose(losses.numpy(), wanted, rtol=0, atol=1e-4)
        held = observer.session.data.domains_of(client)
        own = np.array([held.get(d, 0) / validation.domains.count(d) for d in validation.domains])
        assert (own @ losses.numpy() / own.sum()) == pytest.approx(reported["own_loss_K"][client], abs=1e-4)
        seen.add(round(float(losses.sum()), 3))
    assert len(seen) == 3


def test_restored_decoder_with_bottlenecks_has_the_loss_of_the_run(tmp_path):
    recipe = small("fedavg_lora", *BOTTLENECKS, "method.optimiser.learning_rate=0.02")
    train(recipe, tmp_path / "run")
    restored = load_adapted(folder_of("tiny"), tmp_path / "run" / "adapters" / "global")
    validation = build(recipe).data.validation
    losses = [stock_loss(restored, validation, [i]).item() * n for i, n in enumerate(validation.labelled)]
    reported = read_rounds(tmp_path / "run")[-1]["evaluation"]["loss"]
    assert sum(losses) / validation.labelled.sum() == pytest.approx(reported, abs=1e-4)


def row_of(tokens, index):
    return torch.tensor(tokens.row(index).astype(np.int64))[None]
