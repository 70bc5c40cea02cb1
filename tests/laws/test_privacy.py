"""Private runs: no noise and no clipping is no privacy, to the bit; what is recorded is what was done."""

import json
from dataclasses import dataclass, replace

import pytest
import torch

from helpers.deployment import deployed, play
from helpers.runs import EXACT, read_json, read_rounds, small, told, train
from wavetune.errors import ConfigError
from wavetune.federation.codecs.codec import Transform
from wavetune.federation.exchanges.exchange import Exchange
from wavetune.federation.filters.filter import Fill, Filter
from wavetune.federation.links import Outage
from wavetune.federation.mixing import Mixing
from wavetune.federation.privacy import epsilon
from wavetune.reporting import write_report
from wavetune.runtimes.round import train_round
from wavetune.runtimes.session import Session, build

EQUAL = ("world.data.partition.kind=iid", "run.samples=0")
METHODS = {
    "personal": ("method.bottleneck.width=4", 'method.sharing.shared=["bottleneck"]'),
    "frozen_a_and_lost_uploads": (
        "method.mixing.kind=frozen_a", "method.link.kind=outage", "method.link.loss_probability=0.5",
    ),
}  # fmt: skip


def rounds_of(*changes: str, rounds: int = 2):
    session = build(small("fedavg_lora", *EQUAL, *changes))
    assert isinstance(session, Session)
    return session, [train_round(session, index, lambda *_: None) for index in range(rounds)]


@pytest.mark.parametrize("changes", METHODS.values(), ids=METHODS)
def test_without_noise_and_clipping_a_private_run_is_the_run_without_privacy(changes):
    nothing = ("method.privacy.noise_multiplier=0", "method.privacy.clip_norm=null")
    _, plain = rounds_of(*changes)
    _, private = rounds_of(*changes, *nothing)
    for wanted, found in zip(plain, private, strict=True):
        assert told(found)["train_loss_K"] == told(wanted)["train_loss_K"]
        assert told(found)["metered_bits"] == told(wanted)["metered_bits"]
        assert told(found)["privacy"]["epsilon"] is None
        for name, pair in wanted.mixed.factors.items():
            for mine, theirs in zip(found.mixed.factors[name].values(), pair.values(), strict=True):
                assert torch.equal(mine, theirs)


def test_a_run_records_what_it_gave_away_and_the_report_shows_it(tmp_path):
    """Clients of unequal data count the same."""
    unequal = ("world.data.partition.kind=dirichlet", "run.samples=0")
    recipe = small("fedavg_lora", *unequal, "method.privacy.noise_multiplier=3", "method.privacy.clip_norm=0.05")
    train(recipe, tmp_path / "run")
    summary, records = read_json(tmp_path / "run" / "summary.json"), read_rounds(tmp_path / "run")
    for index, record in enumerate(records):
        found = record["privacy"]
        assert found["mixed"] == 3
        assert found["epsilon"] == pytest.approx(epsilon([3.0] * (index + 1), 1e-5))
        assert all(norm > 0 for norm in found["update_norm_K"])
        assert record["train_loss"] == pytest.approx(sum(record["train_loss_K"]) / 3)
    assert len({d["num_samples"] for d in read_json(tmp_path / "run" / "world.json")["devices"]}) > 1
    assert summary["privacy"]["epsilon"] == records[-1]["privacy"]["epsilon"]
    assert summary["privacy"]["epsilon"] < summary["privacy"]["epsilon_client"] < summary["privacy"]["epsilon_server"]
    page = write_report([tmp_path / "run"], tmp_path / "report.html").read_text()
    assert "Epsilon after each round" in page
    assert f"{summary['privacy']['epsilon']:.3g}"[:3] in page
    json.dumps(summary, allow_nan=False)


def test_ranks_that_differ_are_refused():
    with pytest.raises(ConfigError, match=r"one rank for all clients, and theirs are \[1, 2, 2\]"):
        build(small("fedavg_lora", *EQUAL, "method.privacy.noise_multiplier=1", "method.lora.rank=[1,2,2]"))


@dataclass(frozen=True)
class Doubled(Filter):
    """A filter of somebody's, who says nothing of what it does."""


@dataclass(frozen=True)
class Again(Fill):
    """Likewise what stands in for lost updates."""


@dataclass(frozen=True)
class Signs(Transform):
    """Likewise a codec."""


@dataclass(frozen=True)
class Around(Exchange):
    """Likewise an exchange."""


@dataclass(frozen=True)
class Largest(Mixing):
    """Likewise a mixing rule."""


@pytest.mark.parametrize(
    ("parts", "missing"),
    [
        ({"filters": (Doubled(),)}, "updates not judged"),
        ({"link": Outage(loss_probability=0.5, lost=Again())}, "every update to be mixed once"),
        ({"adapter_codec": (Signs(),)}, "updates that are not rounded"),
        ({"exchange": Around()}, "one mixture of all updates"),
        ({"mixing": Largest()}, "a mean of the updates"),
    ],
)
def test_a_part_that_does_not_say_that_it_leaves_the_guarantee_true_is_refused(parts, missing):
    method = small("fedavg_lora", "method.privacy.clip_norm=1").method
    method.check(3, 4, 32)
    with pytest.raises(ConfigError, match=f"method.privacy needs {missing}"):
        replace(method, **parts).check(3, 4, 32)


def test_devices_send_what_clients_in_one_process_would(tmp_path):
    noisy = (*EXACT, "method.privacy.noise_multiplier=1")
    with deployed(small("fedavg_lora", *EQUAL, *noisy), tmp_path / "certificates") as servers:
        found = play(servers, 2)
    _, wanted = rounds_of(*noisy)
    for mine, theirs in zip(found, wanted, strict=True):
        assert told(mine)["privacy"]["epsilon"] == told(theirs)["privacy"]["epsilon"]
        for name, pair in theirs.mixed.factors.items():
            for sent, simulated in zip(mine.mixed.factors[name].values(), pair.values(), strict=True):
                torch.testing.assert_close(sent, simulated, rtol=0, atol=1e-9)
