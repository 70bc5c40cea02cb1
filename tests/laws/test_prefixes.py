"""Prefixes in every block are what stock transformers and PEFT make of them: trained, cut, saved, generated with."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from peft import PeftModel
from transformers import DynamicCache

from helpers.decoders import FAMILIES, decoder
from helpers.runs import Silent, read_json, small, train
from helpers.training import PLAIN_ADAMW, folder_of, random_rows, tokens_of
from wavetune.costs.block import block_costs
from wavetune.costs.table import Workload
from wavetune.errors import ConfigError
from wavetune.federation.adapters.prefix import Prefix
from wavetune.federation.codecs import Fp64
from wavetune.federation.cohort import Cohort, RowBatches
from wavetune.federation.cut import CutLink
from wavetune.federation.door import Door
from wavetune.federation.optimise import StackedOptimiser
from wavetune.federation.placement import Placement
from wavetune.models.adapter_folder import read_factors
from wavetune.models.backbone import load_backbone, load_stock_model, prepare_backbone
from wavetune.models.decode import decode
from wavetune.models.double import compute_in_double
from wavetune.models.generate import generate
from wavetune.models.lora import new_bank
from wavetune.models.ragged import ATTENTION, BranchedLayout, branched_layout, ragged_layout
from wavetune.models.restore import load_adapted, prompt_tokens
from wavetune.runtimes.inprocess import run
from wavetune.runtimes.scoring import perplexity
from wavetune.runtimes.session import build, one_bank

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
P = 3
ROWS = tokens_of(random_rows())
BATCHES = [np.array([0, 1, 2]), np.array([3, 4])]  # of two clients
PREFIXES = ("method.lora.rank=0", 'method.adapters={"kind":"prefix","tokens":3}')


def bank_of(backbone, num_clients, cut=None):
    """Prefixes that differ between clients and blocks."""
    local_LK = np.arange(backbone.num_layers)[:, None] < np.full(num_clients, cut or backbone.num_layers)
    bank = new_bank(backbone.sites, local_LK, (0,) * num_clients, 0, 8.0, 0, dtype=backbone.dtype)
    with torch.no_grad():
        for i, own in enumerate((*bank.local.values(), *bank.shared.values())):
            for name, stack in own.items():
                stack.normal_(0, 0.7, generator=torch.Generator().manual_seed(2 * i + (name == "keys")))
    return bank


def prefix_of(bank, client):
    """Keys and values of every block `[P, width]`, leaves of their own."""
    found = []
    for site in bank.sites:
        slot = int(bank.slots(site.layer)[client])
        own = bank.local[site.name] if slot >= 0 else bank.shared[site.name]
        found.append([own[name][max(slot, 0)].detach().clone().requires_grad_() for name in ("keys", "values")])
    return found


def stock_logits(model, prefix, ids):
    """What a stock model makes of a text behind keys and values in its cache."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    cached = [[t.unflatten(1, (heads, -1)).transpose(0, 1)[None] for t in own] for own in prefix]
    return model(input_ids=ids[None], past_key_values=DynamicCache(cached), use_cache=True).logits[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_reads_them_as_it_reads_its_cache(family):
    stock, backbone = decoder(family, "eager"), prepare_backbone(decoder(family, ATTENTION), (), adapters=[Prefix(P)])
    bank, lengths = bank_of(backbone, 2), [4, 9, 2]
    texts = [torch.randint(3, 64, (n,), generator=torch.Generator().manual_seed(n)) for n in lengths]
    layout = ragged_layout(lengths, before=backbone.key_tokens(bank))
    hidden = backbone.forward(torch.cat(texts), layout, bank, [0, 1], [13, 2])
    found = backbone.head.logits(backbone.final_norm(hidden))[0].split(lengths)
    for logits, text, client in zip(found, texts, (0, 0, 1), strict=True):
        wanted = stock_logits(stock, prefix_of(bank, client), text)
        torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("model", "cut"), [("tiny", None), ("tiny", 2), ("tiny-gpt2", None), ("tiny-gpt2", 1)])
def test_a_stacked_step_is_every_clients_own_whether_the_model_is_cut_or_not(model, cut):
    backbone = load_backbone(folder_of(model), (), dtype=torch.float64, adapters=[Prefix(P)])
    bank, layers = bank_of(backbone, 2, cut), backbone.num_layers
    placement = Placement(layers, (cut or layers,) * 2, (None,) * 2, (0.4, 0.6), cut is not None)
    link = CutLink(Door(), Fp64(), Fp64())
    cohort = Cohort(backbone, bank, placement, link, StackedOptimiser(bank, PLAIN_ADAMW), tokens_per_pass=1000)
    stock = load_stock_model(folder_of(model), torch.float64)
    compute_in_double(stock)
    prefixes = [prefix_of(bank, client) for client in range(2)]
    losses = []
    for own, rows in zip(prefixes, BATCHES, strict=True):
        each = []
        for row in rows:
            ids = torch.tensor(ROWS.row(int(row)).astype(np.int64))
            of_text = F.cross_entropy(stock_logits(stock, own, ids)[:-1], ids[1:], reduction="none")
            each.append(of_text[ROWS.label_start[row] - 1 :])
        losses.append(torch.cat(each).mean())
        losses[-1].backward()
    found, _ = cohort.gradients(RowBatches(ROWS, dict(enumerate(BATCHES))), [0, 1])
    for client, loss in enumerate(losses):
        nll, count = found[client]
        assert nll / count == pytest.approx(float(loss.detach()), rel=1e-8)
    for layer, site in enumerate(bank.sites):
        for i, name in enumerate(("keys", "values")):
            own = [prefix[layer][i].grad for prefix in prefixes]
            if cut is None or layer < cut:
                wanted = torch.stack(own)
                torch.testing.assert_close(bank.local[site.name][name].grad, wanted, rtol=1e-5, atol=1e-10)
            else:
                wanted = 0.4 * own[0] + 0.6 * own[1]
                torch.testing.assert_close(bank.shared[site.name][name].grad[0], wanted, rtol=1e-5, atol=1e-10)


def test_branches_read_the_prefix_of_their_trunk():
    backbone = load_backbone(folder_of("tiny"), (), dtype=torch.float64, adapters=[Prefix(P)])
    bank = bank_of(backbone, 1)
    trunk, branches = torch.arange(3, 7), [torch.arange(10, 13), torch.arange(20, 22)]
    layout = branched_layout([4], [[3, 2]], before=P)
    assert isinstance(layout, BranchedLayout)
    together = backbone.forward(torch.cat([trunk, *branches]), layout, bank, [0], [9])
    for branch, found in zip(branches, together[4:].split([3, 2]), strict=True):
        text = torch.cat([trunk, branch])
        alone = backbone.forward(text, ragged_layout([len(text)], before=P), bank, [0], [len(text)])
        torch.testing.assert_close(found, alone[4:])


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    folder, observer = tmp_path_factory.mktemp("prefixes") / "run", Silent()
    run(small("fedavg_lora", *PREFIXES, "method.optimiser.learning_rate=0.1", "run.samples=2"), folder, observer)
    return folder, observer.session


def test_what_a_run_saves_is_loaded_by_peft_and_has_the_loss_that_the_run_found(played):
    folder, session = played
    model, rows = load_adapted(folder_of("tiny"), folder / "adapters" / "global"), session.data.validation
    assert isinstance(model, PeftModel)
    summary = read_json(folder / "summary.json")["validation_loss"]
    assert perplexity(model, rows) == pytest.approx(np.exp(summary["after"]), rel=1e-4)
    assert summary["after"] < summary["before"]
    own = PeftModel.from_pretrained(load_stock_model(folder_of("tiny")), str(folder / "adapters" / "client-01"))
    assert perplexity(own.eval(), rows) != pytest.approx(np.exp(summary["after"]), rel=1e-6)


def test_a_runs_own_answers_are_those_of_what_it_saved(played):
    folder, session = played
    model = load_adapted(folder_of("tiny"), folder / "adapters" / "global")
    assert prompt_tokens(model) == P
    asked = [[3, 4, 5, 6, 7], [8, 9], [10, 11, 12]]
    together = generate(model, session.tokenizer, asked, 6)
    assert together == [generate(model, session.tokenizer, [one], 6)[0] for one in asked]

    backbone = session.cohort.backbone
    bank = one_bank(session.cohort, read_factors(folder / "adapters" / "global", backbone))
    answers = decode(backbone, asked, 6, {session.tokenizer.eos_token_id}, bank)
    decoded = [session.tokenizer.decode(answer.ids, skip_special_tokens=True) for answer in answers]
    assert decoded == together


@pytest.mark.parametrize("at_once", [None, 2])
def test_every_answer_is_written_behind_its_own_clients_prefix(at_once):
    backbone = load_backbone(folder_of("tiny"), (), adapters=(Prefix(P),), dtype=torch.float64)
    bank, asked, owners = bank_of(backbone, 2), [[3, 4], [3, 4], [5], [3, 4], [6, 7, 8]], [0, 0, 0, 1, 1]
    together = decode(backbone, asked, 4, (), bank, owners, samples_at_once=at_once)
    for answer, prompt, owner in zip(together, asked, owners, strict=True):
        (alone,) = decode(backbone, [prompt], 4, (), bank, [owner])
        assert answer.ids == alone.ids
        np.testing.assert_allclose(answer.log_probs, alone.log_probs, rtol=1e-9)


def test_prefixes_beside_lora_and_bottlenecks_under_a_cut_are_restored_as_they_were(tmp_path):
    settings = ("method.lora.rank=2", "method.bottleneck.width=4", PREFIXES[1], "method.optimiser.learning_rate=0.05")
    observer = Silent()
    run(small("sflllm", *settings), tmp_path / "run", observer)
    summary = read_json(tmp_path / "run" / "summary.json")["validation_loss"]
    model = load_adapted(folder_of("tiny"), tmp_path / "run" / "adapters" / "global")
    assert perplexity(model, observer.session.data.validation) == pytest.approx(np.exp(summary["after"]), rel=1e-4)


def test_a_prefix_costs_its_keys_and_values_on_the_way_and_pairs_of_tokens_in_attention(played):
    _, session = played
    table, layers = session.accountant.table, session.cohort.backbone.num_layers
    width = table.architecture.blocks[0].key_width
    none = Workload(*(np.zeros((1, 3)) for _ in range(4)))
    assert {k: int(n) for k, n in session.accountant.predicted_bits(none)[1].items()} == {
        (kind, k): 32 * P * 2 * layers * width for kind in ("adapters_up", "adapters_down") for k in range(3)
    }
    block = table.architecture.blocks[0]
    pair = sum(p.flop_per_pair for p in block.products)
    costs = [block_costs(block, (), below, 64, [Prefix(P)]) for below in (False, True)]
    plain = block_costs(block, (), False, 64)
    assert {one.fixed_forward_flop_per_token for one in costs} == {P * pair}
    # without anything trained below, the queries alone need no gradient
    assert [one.fixed_backward_flop_per_token for one in costs] == [P * pair * 3 // 2, P * pair * 2]
    assert costs[0].backward_flop_per_pair == pair * 3 // 2
    assert plain.backward_flop_per_pair == 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ([*PREFIXES, "method.adapters.tokens=0"], "greater than or equal to 1"),
        ([*PREFIXES, "world.data.source=movie-reviews", "world.data.template.kind=class"], "learned token by token"),
        ([*PREFIXES, 'method.soft_prompt={"tokens":2}'], "leave one out"),
    ],
)
def test_prefixes_that_cannot_be_are_refused_in_a_sentence(settings, words, tmp_path):
    with pytest.raises(ConfigError, match=words):
        train(small("fedavg_lora", *settings), tmp_path / "run")


def test_a_mixture_of_the_prefixes_of_some_blocks_is_tried_out():
    session = build(small("fedavg_lora", *PREFIXES, "method.sharing.shared_layers=2"))
    assert len(session.server.current) == 2
    assert session.server.holds(session.server.current)


def test_prefixes_that_would_stay_random_are_refused():
    with pytest.raises(ConfigError, match="would stay as random as they begin"):
        build(small("fedavg_lora", *PREFIXES, "method.sharing.trained_layers=2"))
