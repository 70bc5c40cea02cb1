"""Certificates: what a plan claims is confirmed without the planner, and whatever was tampered with is refused."""

import copy
import importlib.util
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.command_line import assert_refused, wavetune
from helpers.json_numbers import numbers
from helpers.problems import cell_problem
from wavetune.allocation import planner
from wavetune.allocation.certificate import plan_with_certificate
from wavetune.allocation.feasibility import check_feasible
from wavetune.allocation.instance import plan_to_json, problem_from_json, problem_to_json
from wavetune.errors import InstanceError
from wavetune.wireless.rate_models import Ladder, NrMcs

ROOT = Path(__file__).parents[3]
PATH = ROOT / "tools" / "verify_plan.py"


def script(path):
    """The module of a script."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


verify_plan, problem_of = script(PATH), script(ROOT / "benchmarks" / "planner_classes.py").problem_of


def instance_of(kind):
    clients, subchannels = (6, 14) if "cell" in kind else (4, 9)
    instance, g = problem_to_json(cell_problem(clients, subchannels, seed=1)), np.random.default_rng(5)
    if "wild" in kind:
        for band in instance["bands"].values():
            band["gain"] = (10 ** g.uniform(-13, -9, (clients, subchannels))).tolist()
            band["total_power_max_w"] = 1e3
        for client in instance["clients"]:
            client["tx_power_max_w"] = 0.02
    if "both ways" in kind:
        for band in instance["bands"].values():
            gain = (np.array(band["gain"]) * g.exponential(size=(clients, subchannels))).tolist()
            band["wavetune:downlink"] = {"gain": gain, "power_w": 1e-3}
            band["wavetune:interference_w"] = (
                band["noise_psd_w_per_hz"] * band["subchannel_hz"] * g.random(subchannels)
            ).tolist()
        instance["costs"]["wavetune:download_share"] = 0.5
        instance["costs"]["wavetune:gradient_bits"] = [0.7 * x for x in instance["costs"]["activation_bits"]]
    if "limit" in kind:
        for band in instance["bands"].values():
            band["wavetune:rate"] = {"kind": "shannon", "snr_gap_db": 3.0, "max_bit_per_s_per_hz": 5.5}
    return instance


@pytest.fixture(scope="module", params=["cell", "cell, both ways", "wild gains and small caps", "wild with a limit"])
def files(request, tmp_path_factory):
    """Instance, plan and certificate of the command."""
    folder = tmp_path_factory.mktemp("certificate")
    names = [folder / f"{name}.json" for name in ("instance", "plan", "certificate")]
    names[0].write_text(json.dumps(instance_of(request.param) | {"cuts": [1, 6, 11]}))  # each has proofs of its own
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


def crowded(kind):
    """An instance of which some cuts have a plan, as they send nothing where there is no room."""
    instance = instance_of("cell")
    costs, bands, layers = instance["costs"], instance["bands"], len(instance["costs"]["activation_bits"])
    instance["cuts"] = [1, layers]
    if kind == "main band":
        costs["activation_bits"][-1] = 0
        bands["main"]["gain"] = [row[:5] for row in bands["main"]["gain"]]
    elif kind == "fed band":
        costs["lora_bits_per_rank"] = [0] * (layers - 1) + [1e4]
        costs.pop("wavetune:adapter_bits", None)
        bands["fed"]["gain"] = [[*row[:2], *(0 for _ in row[2:])] for row in bands["fed"]["gain"]]
    else:
        costs["activation_bits"][-1] = 0
        instance["clients"][2]["tx_power_max_w"] = 0
        costs["lora_bits_per_rank"] = [0] * layers
    return instance


@pytest.mark.parametrize(("kind", "most_gap"), [("main band", 1e-3), ("fed band", 5e-3), ("no power", 1.0)])
def test_cuts_that_have_no_plan_are_refuted_beside_those_that_have(kind, most_gap, tmp_path, capsys):
    problem = problem_from_json(crowded(kind))
    plan, certificate = plan_with_certificate(problem)
    named = {"instance": crowded(kind), "plan": plan_to_json(plan), "certificate": certificate}
    paths = [tmp_path / f"{name}.json" for name in named]
    for path, content in zip(paths, named.values(), strict=True):
        path.write_text(json.dumps(content))
    assert len(check_feasible(problem).pairs) < len(problem.cuts) * len(problem.ranks)
    assert verify_plan.main(*paths) == 0, capsys.readouterr().out
    assert certificate["lower_bound_s"] >= (1 - most_gap) * plan.delay_s


def small_caps(num_clients, num_subchannels, seed):
    """Clients with equal small caps and wild gains, at one cut and rank."""
    problem, g = cell_problem(num_clients, num_subchannels, seed=1), np.random.default_rng(seed)

    def band(one):
        return replace(one, gain_KM=10 ** g.uniform(-13, -9, one.gain_KM.shape), total_power_max_w=1e3)

    problem = replace(problem, main=band(problem.main), fed=band(problem.fed))
    return replace(problem, tx_power_max_w_K=np.full(num_clients, 0.02)).restrict([1], [1])


@pytest.mark.parametrize(
    "problem",
    [
        pytest.param(lambda: small_caps(8, 24, 7), id="packing, sets just beyond a cap"),
        pytest.param(lambda: small_caps(12, 26, 11), id="packing, many sets of a client"),
    ],
)
def test_the_certificate_proves_what_search_proved(problem):
    problem = problem()
    plan, certificate = plan_with_certificate(problem)
    assert plan.gap < 1e-4
    assert verify_plan.bound(problem_to_json(problem), certificate) >= plan.lower_bound_s * (1 - 1e-5)


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

    def changed(change):
        copied = copy.deepcopy(certificate)
        change(copied, copied["pairs"][best]["refuted"])
        return copied

    yield changed(lambda c, _: c.update(lower_bound_s=1.001 * c["lower_bound_s"]))
    yield changed(lambda c, _: c["pairs"].pop(best))
    yield changed(lambda c, _: c["fed"][0].update(up_s=1.5 * c["fed"][0]["up_s"]))
    yield changed(lambda c, _: c["fed"].clear())
    yield changed(lambda _, refuted: refuted[0].update(up_s=1.5 * refuted[0]["up_s"]))
    yield changed(lambda _, refuted: refuted[0].update(proof=None))
    yield changed(lambda _, refuted: refuted[0]["proof"]["clients"].clear())
    yield changed(lambda _, refuted: refuted[0]["proof"].update(power=-1.0))
    yield changed(lambda _, refuted: refuted[0]["proof"]["subchannels"].__setitem__(0, -1.0))
    nothing = {"multipliers": [0.0, 0.0, 0.0]}
    yield changed(lambda _, refuted: refuted[0]["proof"].update(clients=[nothing] * 20))
    yield changed(lambda _, refuted: refuted[0].update(proof=refuted[0]["proof"] | {"clients": [nothing] * 3}))


def test_a_tampered_certificate_is_refused(files, tmp_path, capsys):
    for certificate in tampered_certificates(*(json.loads(file.read_text()) for file in (files[2], files[1]))):
        code, words = checked(files, {"certificate": certificate}, tmp_path, capsys)
        assert (code, words[:9]) == (2 if "malformed" in words else 1, "refused: ")


OBJECTS = {
    "instance": [("bands",), ("bands", "fed"), ("clients", 0), ("costs",), ("server",), ("rounds_to_target",)],
    "plan": [("bands",), ("bands", "main")],
    "certificate": [("fed", 0), ("fed", 0, "proof"), ("pairs", 0), ("pairs", 0, "refuted", 0)],
}


@pytest.mark.parametrize("files", ["cell"], indirect=True)
@pytest.mark.parametrize(
    ("name", "path"),
    [pytest.param(name, path, id=f"{name} {path}") for name in OBJECTS for path in ((), *OBJECTS[name])],
)
def test_a_list_where_an_object_stands_is_refused(name, path, files, tmp_path, capsys):
    changed = [next(json.loads(file.read_text()) for file in files if file.stem == name)]
    parent = changed
    for key in (0, *path)[:-1]:
        parent = parent[key]
    last = (0, *path)[-1]
    stood = parent[last]
    for values in (list(stood), [*stood.values()], [stood]):
        parent[last] = values
        code, words = checked(files, {name: changed[0]}, tmp_path, capsys)
        assert (code, words[:9]) == (2 if "malformed" in words else 1, "refused: "), words


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_no_number_of_a_certificate_can_be_changed_so_that_it_proves_what_is_false(files, data):
    """A plan with a delay exists, so that no certificate of its instance proves more than that."""
    instance, plan, certificate = (json.loads(file.read_text()) for file in files)
    path = data.draw(st.sampled_from(list(numbers(certificate))))
    parent = certificate
    for key in path[:-1]:
        parent = parent[key]
    factor = st.sampled_from([-1.0, 0.0, 0.5, 0.9, 1.001, 1.1, 2.0, 10.0, 1e6, 1e200, float("nan"), float("inf")])
    parent[path[-1]] = parent[path[-1]] * data.draw(factor)
    with np.errstate(all="ignore"):
        try:
            proved_s = verify_plan.bound(instance, certificate)
        except (verify_plan.RefusedError, KeyError, TypeError, ValueError, IndexError, ArithmeticError):
            return
    assert proved_s <= plan["delay_s"]


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_a_plan_with_other_owners_or_powers_is_charged_what_it_takes_or_refused(files, data):
    """The certificate's bound holds for whatever plan the checker lets pass."""
    instance, plan, certificate = (json.loads(file.read_text()) for file in files)
    band = plan["bands"][data.draw(st.sampled_from(["main", "fed"]))]
    i = data.draw(st.integers(0, len(band["owner"]) - 1))
    band["owner"][i] = data.draw(st.integers(-1, len(instance["clients"])))
    band["power_w"][i] *= data.draw(st.sampled_from([0.0, 0.5, 1.0, 2.0]))
    try:
        delay_s = verify_plan.plan_delay(instance, plan)
    except verify_plan.RefusedError:
        return
    assert delay_s >= certificate["lower_bound_s"]


def test_a_rate_that_the_checker_does_not_know_is_refused(files, tmp_path, capsys):
    instance = json.loads(files[0].read_text())
    instance["bands"]["main"]["wavetune:rate"] = {"kind": "nr_mcs"}
    code, words = checked(files, {"instance": instance}, tmp_path, capsys)
    assert (code, words[:9]) == (1, "refused: ")


@pytest.mark.parametrize("rate", [{"kind": "nr_mcs"}, {"kind": "attenuated_shannon", "min_snr_db": 0.0}])
def test_a_plan_at_another_rate_is_confirmed_from_the_numbers_in_its_certificate(rate, tmp_path, capsys):
    names = [tmp_path / f"{name}.json" for name in ("instance", "plan", "certificate")]
    instance = instance_of("cell, both ways")
    for band in instance["bands"].values():
        band["wavetune:rate"] = rate
    names[0].write_text(json.dumps(instance))
    assert wavetune("plan", names[0], "--json", names[1], "--certificate", names[2]).code == 0
    assert verify_plan.main(*names[1:]) == 0
    assert float(capsys.readouterr().out.split("proved gap ")[1].rstrip("%\n")) < 25.0
    written = json.loads(names[2].read_text())
    written["instance"]["bands"]["main"]["wavetune:carries"]["uplink"].update(bit_per_s=[], snr=[1.0], share=-1.0)
    names[2].write_text(json.dumps(written))
    assert verify_plan.main(*names[1:]) == 1


@dataclass(frozen=True)
class OneStep(NrMcs):
    """A scheme or nothing, half of which the smooth rate above it promises for half of the power."""

    def ladder(self, subchannel_hz, uplink=True):
        """The thirteenth scheme alone."""
        snr_i, rate_i = super().ladder(subchannel_hz, uplink)
        return Ladder(snr_i[12:13], rate_i[12:13])


@pytest.mark.parametrize("kind", ["steps of rates", "both ways"])
def test_a_certificate_takes_the_steps_of_a_rate_themselves(kind):
    problem = problem_of(kind, 4, 9, 1)
    bands = {name: replace(vars(problem)[name], rate=OneStep()) for name in ("main", "fed")}
    problem = replace(problem, **bands)
    plan, certificate = plan_with_certificate(problem)
    assert verify_plan.bound(problem_to_json(problem), certificate) >= 0.998 * plan.delay_s


@pytest.mark.parametrize(("names", "said"), [(["a"], "give the files"), (["a", "b"], "No such file"), ([], "give the")])
def test_files_that_are_missing_are_told_and_no_plan_is_confirmed(names, said, tmp_path, capsys):
    assert verify_plan.main(*(tmp_path / name for name in names)) == 2
    assert said in capsys.readouterr().out


def test_the_checker_imports_numpy_alone_and_is_short():
    lines = PATH.read_text().splitlines()
    assert len(lines) <= 200
    imported = {line.split()[1].split(".")[0] for line in lines if line.startswith(("import ", "from "))}
    assert imported <= {"json", "sys", "pathlib", "numpy"}


@pytest.mark.parametrize("world", ["", "world.scenario.preset=paper", "world.scenario.neighbours.activity=0.5"])
def test_the_certificate_of_a_recipe_holds_its_instance_and_is_confirmed(world, tmp_path, capsys):
    """The default world, where the way back takes time, first."""
    chosen, certificate = tmp_path / "plan.json", tmp_path / "certificate.json"
    given = [part for one in (world, "method.topology.cut=1", "method.lora.rank=4") if one for part in ("--set", one)]
    answer = wavetune("plan", "sflllm", "--model", "tiny", *given, "--json", chosen, "--certificate", certificate)
    assert answer.code == 0
    assert "the certificate proves" in answer.out
    assert verify_plan.main(chosen, certificate) == 0
    assert float(capsys.readouterr().out.split("proved gap ")[1].rstrip("%\n")) < 3.0
    changed = json.loads(certificate.read_text())
    changed["instance"]["local_steps"] += 1
    certificate.write_text(json.dumps(changed))
    assert verify_plan.main(chosen, certificate) == 1


def test_an_instance_with_a_way_back_is_planned_as_the_problem_that_it_was_written_from():
    instance = instance_of("cell, both ways")
    problem = problem_from_json(instance)
    written = problem_to_json(problem)
    assert problem.price_downlink
    for name, band in instance["bands"].items():
        assert written["bands"][name] == band
    assert written["costs"]["wavetune:gradient_bits"] == instance["costs"]["wavetune:gradient_bits"]
    found = planner.plan(problem)
    assert verify_plan.plan_delay(written, plan_to_json(found)) == pytest.approx(found.delay_s, rel=1e-9)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda bands: bands["fed"].pop("wavetune:downlink"), "wavetune:downlink"),
        (lambda bands: bands["main"]["wavetune:downlink"]["gain"].pop(), "rows"),
        (lambda bands: [row.pop() for row in bands["main"]["wavetune:downlink"]["gain"]], "entries a row"),
        (lambda bands: bands["main"]["wavetune:interference_w"].pop(), "one per subchannel"),
        (lambda bands: bands["main"]["wavetune:downlink"].update(power_w=-3.0), "above 0"),
    ],
)
def test_a_way_back_that_does_not_fit_its_instance_is_refused(change, said):
    instance = instance_of("cell, both ways")
    change(instance["bands"])
    with pytest.raises(InstanceError, match=said):
        problem_from_json(instance)


@pytest.mark.parametrize(
    ("setting", "word"),
    [
        ("method.planner.rank_per_client=true", "differ in rank"),
        ("method.planner.kind=paper_greedy", "has no bound"),
    ],
)
def test_a_recipe_whose_bound_is_not_of_one_rank_has_no_certificate(setting, word, tmp_path):
    changes = [part for one in setting.split() for part in ("--set", one)]
    asked = ("--model", "tiny", *changes, "--certificate", tmp_path / "c.json")
    assert_refused(wavetune("plan", "sflllm", *asked), "--certificate", word)
