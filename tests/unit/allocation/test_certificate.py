"""Certificates: what a plan claims is confirmed without the planner, and whatever was tampered with is refused."""

import copy
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from helpers.command_line import assert_refused, wavetune
from helpers.problems import cell_problem
from wavetune.allocation.instance import problem_to_json

PATH = Path(__file__).parents[3] / "tools" / "verify_plan.py"
spec = importlib.util.spec_from_file_location("verify_plan", PATH)
verify_plan = importlib.util.module_from_spec(spec)
spec.loader.exec_module(verify_plan)


def instance_of(kind):
    clients, subchannels = (6, 14) if kind == "cell" else (4, 9)
    instance, g = problem_to_json(cell_problem(clients, subchannels, seed=1)), np.random.default_rng(5)
    if kind != "cell":
        for band in instance["bands"].values():
            band["gain"] = (10 ** g.uniform(-13, -9, (clients, subchannels))).tolist()
            band["total_power_max_w"] = 1e3
        for client in instance["clients"]:
            client["tx_power_max_w"] = 0.02
    if "limit" in kind:
        for band in instance["bands"].values():
            band["wavetune:rate"] = {"kind": "shannon", "snr_gap_db": 3.0, "max_bit_per_s_per_hz": 5.5}
    return instance


@pytest.fixture(scope="module", params=["cell", "wild gains and small caps", "wild with a limit"])
def files(request, tmp_path_factory):
    """Instance, plan and certificate of the command."""
    folder = tmp_path_factory.mktemp("certificate")
    names = [folder / f"{name}.json" for name in ("instance", "plan", "certificate")]
    names[0].write_text(json.dumps(instance_of(request.param)))
    assert wavetune("plan", names[0], "--json", names[1], "--certificate", names[2]).code == 0
    return names


def checked(files, changed, tmp_path, capsys):
    """Exit code and words of the checker for the files, one of them changed."""
    paths = [tmp_path / file.name for file in files]
    for file, path in zip(files, paths, strict=True):
        path.write_text(json.dumps(changed.get(file.stem) or json.loads(file.read_text())))
    code = verify_plan.main(*paths)
    return code, capsys.readouterr().out


def test_plan_and_bound_are_confirmed_within_half_a_percent(files, tmp_path, capsys):
    code, words = checked(files, {}, tmp_path, capsys)
    assert code == 0
    assert float(words.split("proved gap ")[1].rstrip("%\n")) < 0.5


def tampered_plans(plan):
    """Plans that claim too much, and what is said of them."""
    for keys, value in ((("delay_s",), 0.999 * plan["delay_s"]), (("cut",), 99), (("rank",), 3)):
        changed = copy.deepcopy(plan)
        changed[keys[0]] = value
        yield changed
    for change in (lambda band: [1e3 * p for p in band["power_w"]], lambda band: [0.0 for _ in band["power_w"]]):
        changed = copy.deepcopy(plan)
        changed["bands"]["main"]["power_w"] = change(plan["bands"]["main"])
        yield changed
    changed = copy.deepcopy(plan)
    changed["bands"]["fed"]["owner"][0] = 50
    yield changed


def test_a_tampered_plan_is_refused(files, tmp_path, capsys):
    for plan in tampered_plans(json.loads(files[1].read_text())):
        code, words = checked(files, {"plan": plan}, tmp_path, capsys)
        assert (code, words[:9]) == (1, "refused: ")


def tampered_certificates(certificate, plan):
    """Certificates that claim more than they prove, or nothing."""
    decided = (plan["cut"], plan["rank"])
    best = next(i for i, pair in enumerate(certificate["pairs"]) if (pair["cut"], pair["rank"]) == decided)
    for factor in (1.001, 1.1):
        changed = copy.deepcopy(certificate)
        changed["lower_bound_s"] *= factor
        yield changed
        changed = copy.deepcopy(certificate)
        changed["fed_s_per_bit"] *= 1.0 + 100 * (factor - 1.0)
        yield changed
    for change in ("drop", "later", "no proof"):
        changed = copy.deepcopy(certificate)
        if change == "drop":
            del changed["pairs"][best]
        elif change == "later":
            changed["pairs"][best]["main_s"] *= 1.5
        else:
            changed["pairs"][best]["proof"] = None
        yield changed
    changed = copy.deepcopy(certificate)
    changed["fed_proof"]["subchannels"][0] = -1.0
    yield changed
    changed = copy.deepcopy(certificate)
    for client in changed["fed_proof"]["clients"]:
        client.update(nu=client["nu"][:1], alpha=client["alpha"][:1], least=1.0)
    yield changed


def test_a_tampered_certificate_is_refused(files, tmp_path, capsys):
    for certificate in tampered_certificates(*(json.loads(file.read_text()) for file in (files[2], files[1]))):
        code, words = checked(files, {"certificate": certificate}, tmp_path, capsys)
        assert (code, words[:9]) == (1, "refused: ")


def test_a_rate_that_the_checker_does_not_know_is_refused(files, tmp_path, capsys):
    instance = json.loads(files[0].read_text())
    instance["bands"]["main"]["wavetune:rate"] = {"kind": "nr_mcs"}
    code, words = checked(files, {"instance": instance}, tmp_path, capsys)
    assert (code, words[:9]) == (1, "refused: ")


def test_the_checker_imports_numpy_alone_and_is_short():
    lines = PATH.read_text().splitlines()
    assert len(lines) <= 200
    imported = {line.split()[1].split(".")[0] for line in lines if line.startswith(("import ", "from "))}
    assert imported <= {"json", "sys", "pathlib", "numpy"}


@pytest.mark.parametrize("world", ["world.scenario.price_downlink=false", "world.scenario.preset=paper"])
def test_the_certificate_of_a_recipe_holds_its_instance_and_is_confirmed(world, tmp_path, capsys):
    plan, certificate = tmp_path / "plan.json", tmp_path / "certificate.json"
    asked = ("--model", "tiny", "--set", world, "--set", "method.topology.cut=1", "--set", "method.lora.rank=4")
    answer = wavetune("plan", "sflllm", *asked, "--json", plan, "--certificate", certificate)
    assert answer.code == 0
    assert "the certificate proves" in answer.out
    assert verify_plan.main(plan, certificate) == 0
    assert float(capsys.readouterr().out.split("proved gap ")[1].rstrip("%\n")) < 3.0  # without what branching proved
    changed = json.loads(certificate.read_text())
    changed["instance"]["local_steps"] += 1
    certificate.write_text(json.dumps(changed))
    assert verify_plan.main(plan, certificate) == 1


@pytest.mark.parametrize(
    ("setting", "word"),
    [
        ("world.scenario.price_downlink=true", "way back"),
        ("method.planner.cut_per_client=true", "way back"),
        ("world.scenario.preset=paper method.planner.cut_per_client=true", "clients may differ"),
        ("world.scenario.preset=paper method.planner.kind=paper_greedy", "has no bound"),
    ],
)
def test_a_recipe_whose_bound_is_not_of_the_uplink_alone_has_no_certificate(setting, word, tmp_path):
    changes = [part for one in setting.split() for part in ("--set", one)]
    asked = ("--model", "tiny", *changes, "--certificate", tmp_path / "c.json")
    assert_refused(wavetune("plan", "sflllm", *asked), "--certificate", word)
