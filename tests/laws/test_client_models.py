"""Clients that train another model than the servers': what acts where, what crosses, what it costs."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.runs import Silent, read_json, read_rounds, small
from helpers.training import folder_of
from wavetune.costs.memory import client_memory_bytes
from wavetune.costs.table import Workload
from wavetune.errors import ConfigError
from wavetune.federation.client_models.repeated_block import RepeatedBlock
from wavetune.models.backbone import load_backbone, load_stock_model
from wavetune.models.ragged import ragged_layout
from wavetune.models.restore import load_adapted
from wavetune.runtimes.deployed import check_deployable
from wavetune.runtimes.inprocess import run
from wavetune.runtimes.scoring import perplexity
from wavetune.runtimes.session import build

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
OWN_LORA = (
    'method.adapters={"kind":"prefix","tokens":3}',
    'method.sharing.shared=["prefix"]',
    "method.client_model=repeated_block",
    "method.optimiser.learning_rate=0.05",
)


@pytest.mark.parametrize("block", [0, 2])
def test_the_repeated_block_is_in_the_place_of_all_others(block):
    stock = load_stock_model(folder_of("tiny"))
    for other in stock.model.layers:
        other.load_state_dict(stock.model.layers[block].state_dict())
    backbone = load_backbone(folder_of("tiny"), (), make=RepeatedBlock(block).make)
    ids = torch.arange(3, 20)
    found = backbone.head.logits(backbone.final_norm(backbone.forward(ids, ragged_layout([len(ids)]))))[0]
    torch.testing.assert_close(found, stock(input_ids=ids[None], use_cache=False).logits[0], rtol=1e-4, atol=1e-4)


class Watching(Silent):
    """Keeps the names and shapes of what passes the door."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def started(self, session, rounds_done, before):
        super().started(session, rounds_done, before)
        session.door.carry = self.carry

    def carry(self, kind, client, payload):
        self.seen |= {(kind, name) for name in payload}
        return payload


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    folder, observer = tmp_path_factory.mktemp("clients") / "run", Watching()
    run(small("fedavg_lora", *OWN_LORA, "run.samples=1"), folder, observer)
    return folder, observer


def test_the_servers_model_is_judged_and_left_behind(played):
    folder, observer = played
    session = observer.session
    loss = read_json(folder / "summary.json")["validation_loss"]
    stock = load_stock_model(folder_of("tiny"))
    assert perplexity(stock, session.data.validation) == pytest.approx(np.exp(loss["before"]), rel=1e-4)
    adapted = load_adapted(folder_of("tiny"), folder / "adapters" / "global")
    assert perplexity(adapted, session.data.validation) == pytest.approx(np.exp(loss["after"]), rel=1e-4)
    assert loss["after"] != loss["before"]
    assert [p.name for p in (folder / "adapters").iterdir()] == ["global"]


def test_clients_train_the_other_model(played):
    session = played[1].session
    theirs = session.cohort.evaluate(session.data.validation, None).loss()
    assert theirs != pytest.approx(session.serving.evaluate(session.data.validation, None).loss(), rel=1e-3)
    lora = [site.name for site in session.cohort.bank.sites if site.kind == "lora"]
    assert all((session.cohort.bank.local[name]["B"] != 0).any() for name in lora)


def test_their_model_goes_down_once_and_nothing_of_it_or_of_the_servers_goes_up(played):
    folder, observer = played
    session, records = observer.session, read_rounds(folder)
    clients = len(session.rank_K)
    architecture = session.planner.table.architecture
    assert records[0]["metered_bits"]["model_down"] == 32 * clients * architecture.num_parameters
    assert all("model_down" not in record["metered_bits"] for record in records[1:])
    assert all(record["planned"] == record["charged"] for record in records)
    assert records[0]["charged"]["bits_down_K"] > records[1]["charged"]["bits_down_K"]
    sent = {name for kind, name in observer.seen if kind == "model_down"}
    assert {name.split(".")[2] for name in sent if ".layers." in name} == {"0"}
    assert {kind for kind, _ in observer.seen} == {"model_down", "adapters_up", "adapters_down"}
    assert all(":prefix." in name for kind, name in observer.seen if kind != "model_down")


@pytest.mark.parametrize(("precision", "bytes_a_weight"), [("bf16", 2), ("int8", 1)])
def test_their_model_is_sent_as_it_is_held(precision, bytes_a_weight):
    session = build(small("fedavg_lora", *OWN_LORA, f"run.precision={precision}"))
    architecture = session.planner.table.architecture
    maps = architecture.blocks[0].projections
    steps, products = sum(p.out_features for p in maps), sum(p.in_features * p.out_features for p in maps)
    rest = session.accountant.model_bits / 8 - bytes_a_weight * products
    assert 0 < rest <= 4 * (architecture.num_parameters - products + steps)  # in fp32, with a step a channel in int8


def test_it_takes_the_memory_of_one_block_and_the_compute_of_all(played):
    table = played[1].session.planner.table
    whole = replace(table, architecture=played[1].session.servers_architecture)
    none, work = Workload(0, 0, 0, 0), Workload.from_lengths([9, 12], labelled=5)
    layers, block = table.num_layers, whole.architecture.blocks[0].values
    saved = [float(client_memory_bytes(t, layers, 0, none)) for t in (whole, table)]
    assert saved[0] - saved[1] == 4 * (layers - 1) * block
    assert np.array_equal(table.forward_flop(work), whole.forward_flop(work))


def test_adapters_that_all_share_act_in_both_models(tmp_path):
    observer = Silent()
    run(small("fedavg_lora", *OWN_LORA[2:]), tmp_path / "run", observer)
    loss = read_json(tmp_path / "run" / "summary.json")["validation_loss"]
    adapted = load_adapted(folder_of("tiny"), tmp_path / "run" / "adapters" / "global")
    found = perplexity(adapted, observer.session.data.validation)
    assert found == pytest.approx(np.exp(loss["after"]), rel=1e-4)


@pytest.mark.parametrize(
    ("recipe", "settings", "words"),
    [
        ("sflllm", (), "needs the whole model on every client"),
        ("centralised_lora", (), "needs"),
        ("pwff", (), "set method.client_model=null"),
        ("fedavg_lora", ("method.client_model.block=7",), "give a lower one"),
        ("fedavg_lora", ("method.sharing.shared=[]",), "needs adapters that clients share"),
    ],
)
def test_what_does_not_go_together_is_refused_in_a_sentence(recipe, settings, words):
    with pytest.raises(ConfigError, match=words):
        build(small(recipe, "method.client_model=repeated_block", *settings))


def test_devices_are_refused(played):
    with pytest.raises(ConfigError, match="simulated only"):
        check_deployable(played[1].session)
