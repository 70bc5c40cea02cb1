"""FedSP: what the server does before and between rounds, what clients train in turn, and what it all costs."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from helpers.runs import Silent, assert_same_run, read_json, read_rounds, small, train, without_clock
from helpers.training import folder_of
from helpers.workers import train_in_workers, workers_here
from wavetune.data.batching import batch_indices
from wavetune.errors import ConfigError
from wavetune.federation.distillation import Distillation
from wavetune.models.backbone import load_backbone, load_stock_model
from wavetune.models.lora import named_matrices
from wavetune.models.ragged import ragged_layout
from wavetune.recipe import load
from wavetune.runtimes.distilling import Distilling
from wavetune.runtimes.inprocess import run
from wavetune.runtimes.round import train_round
from wavetune.runtimes.session import build
from wavetune.runtimes.tuning import Tuning

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
SMALL = (
    "world.data.server_samples=9",
    "method.adapters.tokens=3",
    "method.client_model.distil.steps=30",
    "method.client_model.distil.batch_size=2",
    "method.server_steps.steps=2",
    "method.optimiser.learning_rate=0.01",
    "run.precision=fp64",
    "run.tokens_per_pass=1",
)

KEEPING = {
    "prefixes": ("method.bottleneck.width=2", 'method.sharing.shared=["bottleneck"]'),
    "prompts": ("method.adapters=[]", "method.turns=[]", "method.soft_prompt.tokens=2", "method.bottleneck.width=2",
                'method.sharing.shared=["bottleneck"]'),
}  # fmt: skip


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    folder, observer = tmp_path_factory.mktemp("fedsp") / "run", Silent()
    run(small("fedsp", *SMALL), folder, observer)
    return folder, observer.session


@pytest.mark.parametrize("phase", [Distilling, Tuning])
def test_a_run_that_is_stopped_in_distillation_or_between_rounds_ends_as_one_that_is_not(
    phase, played, tmp_path, monkeypatch
):
    def stop(self, index, round_of=phase.round):
        if index == 1:
            raise KeyboardInterrupt
        return round_of(self, index)

    with monkeypatch.context() as once:
        once.setattr(phase, "round", stop)
        with pytest.raises(KeyboardInterrupt):
            train(small("fedsp", *SMALL), tmp_path / "run")
    train(load(tmp_path / "run" / "recipe.json"), tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", played[0])
    records = [read_rounds(folder, "distillation.jsonl") for folder in (tmp_path / "run", played[0])]
    assert records[0] == records[1]
    assert [record["steps"] for record in records[0]] == [25, 5]


def test_workers_end_as_one_process(played, tmp_path):
    train_in_workers(small("fedsp", *SMALL), tmp_path / "two", workers_here(2))
    assert_same_run(tmp_path / "two", played[0])


def test_the_servers_steps_are_charged_and_recorded(played):
    folder, session = played
    rounds, plain = read_rounds(folder), build(small("fedsp", *SMALL, "method.server_steps=null"))
    spared = train_round(plain, 0, lambda *_: None).record()
    assert all(record["planned"] == record["charged"] for record in rounds)
    assert all(record["server_loss"] > 0 for record in rounds)
    work_s = session.server_flop(0) / session.planner.known(0).server_flop_per_s
    assert work_s > 0
    assert rounds[0]["charged"]["delay_s"] - spared.charged.delay_s == pytest.approx(work_s, rel=1e-6)
    told = read_json(folder / "summary.json")["further"]["distillation"]
    assert told["server_s"] == pytest.approx(sum(r["server_s"] for r in read_rounds(folder, "distillation.jsonl")))
    assert told["last_loss"] < told["first_loss"]


def test_distilled_adapters_are_sent_with_the_model_and_all_clients_start_with_them():
    session = build(small("fedsp", *SMALL))
    plain = build(small("fedsp", *SMALL, "method.client_model.distil=null"))
    kept = [site for site in session.cohort.bank.sites if site.kind == "lora"]
    values = sum(t[0].numel() for site in kept for t in session.cohort.bank.local[site.name].values())
    assert session.accountant.model_bits - plain.accountant.model_bits == 64 * values


@pytest.mark.parametrize("settings", KEEPING)
def test_what_clients_keep_before_their_texts_is_no_part_of_the_distillation(settings, tmp_path):
    recipe = small("fedsp", *SMALL, "run.rounds=1", "method.client_model.distil.steps=1", *KEEPING[settings])
    train(recipe, tmp_path / "run")
    (saved,) = (tmp_path / "run" / "checkpoints").glob("*2/state.safetensors")
    distilled = {name for name in load_file(saved) if name.startswith("distillation.jsonl|adapter.")}
    assert any("q_proj" in name for name in distilled)
    assert not any("prompt" in name or "prefix" in name for name in distilled)


def test_rows_of_the_server_are_no_clients(played):
    data = played[1].data
    clients = np.concatenate(data.rows_by_client)
    assert len(data.server_rows) == 9
    assert sorted([*clients.tolist(), *data.server_rows.tolist()]) == list(range(len(data.train)))


def test_each_part_of_a_round_trains_one_kind():
    session = build(small("fedsp", *SMALL, "run.local_steps=4", "method.client_model.distil=null"))
    cohort, seen = session.cohort, []

    def values():
        return {kind: [t.detach().clone() for s in cohort.bank.sites if s.kind == kind
                       for t in cohort.bank.local[s.name].values()] for kind in ("lora", "prefix")}  # fmt: skip

    last = [values()]

    def on_step(*_):
        now = values()
        seen.append(
            {kind for kind in now if any((a != b).any() for a, b in zip(now[kind], last[0][kind], strict=True))}
        )
        last[0] = now

    train_round(session, 0, on_step)
    assert seen == [{"lora"}, {"lora"}, {"prefix"}, {"prefix"}]
    assert all(t.requires_grad for _, t in named_matrices(cohort.bank.local))


def test_the_server_trains_the_mixture_on_its_own_rows_and_broadcasts_what_comes_of_it():
    session = build(small("fedsp", *SMALL, "method.server_steps.steps=1", "method.client_model.distil=null"))
    mixtures, training = [], session.training

    def watch(index, mixture, before):
        mixtures.append({name: t.clone() for name, t in mixture.items()})
        return training(index, mixture, before)

    session.server.refine = watch
    train_round(session, 0, lambda *_: None)
    lengths = session.data.train.lengths[session.data.server_rows]
    rows = session.data.server_rows[batch_indices(lengths, session.recipe.world.data.batching, 0, 3, 0)]
    leaves = {name: t.clone().requires_grad_() for name, t in mixtures[0].items()}
    bank, tokens = session.served.bank, session.data.train
    for name, stack in named_matrices(bank.local):
        stack.detach()[0].copy_(leaves[name].detach())
    found = session.served.evaluate(tokens, bank)  # of all rows; the step's are among them
    wanted = found.nll_R[rows].sum() / found.positions_R[rows].sum()
    assert training.loss == pytest.approx(wanted, rel=1e-9)
    now = {f"{site}.{name}": t for site, own in session.server.current.items() for name, t in own.items()}
    assert all((now[name] != mixtures[0][name]).any() for name in now)
    for name, stack in named_matrices(session.cohort.bank.local):
        if name in now:
            torch.testing.assert_close(stack.detach(), now[name].expand_as(stack), rtol=0, atol=1e-6)  # sent in fp32


def test_without_the_clients_the_server_goes_on_from_its_own():
    alone = "method.server_steps.from_clients=false"
    slow, fast = (
        build(
            small("fedsp", *SMALL, alone, "method.client_model.distil=null", f"method.optimiser.learning_rate={rate}")
        )
        for rate in (1e-5, 0.05)
    )
    ends = [train_round(session, 0, lambda *_: None).mixed.factors for session in (slow, fast)]
    for site, own in ends[0].items():
        assert all(torch.equal(t, ends[1][site][name]) for name, t in own.items())


@pytest.mark.parametrize(
    "part",
    [(), ("method.sharing.shared_layers=2",), ("method.sharing.trained_layers=2",), ("method.mixing.kind=frozen_a",)],
    ids=["all", "last_blocks_shared", "last_blocks_trained", "frozen_a"],
)
def test_server_steps_go_with_clients_that_train_the_servers_model(part, tmp_path):
    settings = ("world.data.server_samples=9", 'method.server_steps={"steps":2}', "run.rounds=1")
    train(small("fedavg_lora", *settings, *part), tmp_path / "run")
    (record,) = read_rounds(tmp_path / "run")
    assert record["server_loss"] > 0
    assert record["planned"] == record["charged"]


def test_a_server_that_trains_has_the_prefixes_of_all_blocks_or_is_refused():
    prefixes = ("method.lora.rank=0", 'method.adapters={"kind":"prefix","tokens":3}', "method.sharing.shared_layers=1")
    with pytest.raises(ConfigError, match="reads prefixes in every block"):
        build(small("fedavg_lora", "world.data.server_samples=9", 'method.server_steps={"steps":2}', *prefixes))


def test_without_all_that_is_its_own_it_is_prefix_tuning(tmp_path):
    off = ("method.client_model=null", "method.turns=[]", "method.server_steps=null", "method.lora.rank=0")
    plain = ("method.lora.rank=0", 'method.adapters={"kind":"prefix","tokens":3}', "method.optimiser.weight_decay=0.0")
    rest = ("run.precision=fp64", "run.tokens_per_pass=1", "method.optimiser.learning_rate=0.01", "run.local_steps=2")
    train(small("fedsp", *SMALL, *off), tmp_path / "fedsp")
    train(small("fedavg_lora", *plain, *rest, "world.data.server_samples=9"), tmp_path / "plain")
    for mine, theirs in zip(*(read_rounds(tmp_path / name) for name in ("fedsp", "plain")), strict=True):
        assert without_clock(mine) == without_clock(theirs)
    files = (tmp_path / name / "adapters" / "global" / "adapter_model.safetensors" for name in ("fedsp", "plain"))
    assert len({path.read_bytes() for path in files}) == 1


def test_distillation_of_a_model_into_itself_costs_nothing_and_else_what_torch_says():
    folder = folder_of("tiny")
    one, other = load_backbone(folder, ()), load_backbone(folder, (), make=_first_block_everywhere)
    ids, layout = torch.arange(3, 15), ragged_layout([12])
    hidden, teacher = (b.forward(ids, layout) for b in (other, one))
    for of in ("states", "distributions"):
        assert float(Distillation(of=of).loss(one, teacher, teacher).detach()) == pytest.approx(0, abs=1e-6)
    stock = load_stock_model(folder)
    states, logits = [], []
    for model in (stock, _first_block_everywhere(load_stock_model(folder))):
        with torch.no_grad():
            out = model(input_ids=ids[None], output_hidden_states=True, use_cache=False)
        states.append(out.hidden_states[-1][0])
        logits.append(out.logits[0].log_softmax(-1))
    found = [float(Distillation(of=of).loss(other, hidden, teacher).detach()) for of in ("states", "distributions")]
    assert found[0] == pytest.approx(float(F.mse_loss(*states)), rel=1e-4)
    wanted = F.kl_div(logits[1], logits[0], log_target=True, reduction="batchmean")
    assert found[1] == pytest.approx(float(wanted), rel=1e-4)


def _first_block_everywhere(model):
    for other in model.model.layers:
        other.load_state_dict(model.model.layers[0].state_dict())
    return model


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("world.data.server_samples=0",), "give it some"),
        (("world.data.server_samples=59",), "leaves too few"),
        (('method.turns=[["lora"],["prompt"]]',), "which is not trained"),
        (("method.lora.rank=[2,4,8]",), "set method.lora.rank to one number"),
        (("method.sharing.shared=null",), "take 'lora' out of method.sharing.shared"),
        (("method.exchange=gossip",), "a server that updates are sent to"),
        (('method.sharing.shared=["bottleneck"]',), "client_model needs .* that are trained: lora, prefix$"),
        (
            ("method.client_model=null", "method.sharing.shared_layers=0"),
            "server_steps needs adapters that clients share",
        ),
    ],
)
def test_what_it_cannot_do_without_is_asked_for_in_a_sentence(settings, words):
    with pytest.raises(ConfigError, match=words):
        build(small("fedsp", *SMALL, *settings))
