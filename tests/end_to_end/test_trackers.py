"""Trackers that follow a run, through their own clients where they are installed, else against calls as documented."""

import json
import sys
import time
import types

import pytest

import wavetune as wt
from helpers.command_line import assert_refused, settings, wavetune
from helpers.runs import SMALL
from wavetune import tracking
from wavetune.callbacks import Watched
from wavetune.records.reading import read_run
from wavetune.tracking import client as shared

RECIPE = wt.recipe("sflllm").with_settings(*SMALL)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A finished run whose records are told to trackers again, as the run told them."""
    return wt.run(RECIPE, tmp_path_factory.mktemp("trackers") / "run")


def follow(run, *names, rounds=None, finished=True):
    """Tell trackers of a run what it told its callbacks."""
    watched = Watched(run.folder, None, [tracking.tracker(name) for name in names])
    watched._tell("started", run.folder, run.recipe.to_dict(), 0)
    for record in run.records.rounds[slice(*rounds) if rounds else slice(None)]:
        watched.round(record)
    if finished:
        watched.finished(run.summary)
    watched.closed()


@pytest.fixture
def copied(ran, tmp_path):
    import shutil

    return wt.load_run(shutil.copytree(ran.folder, tmp_path / "run"))


@pytest.mark.filterwarnings("ignore")
def test_tensorboard_is_written_while_the_run_goes_on(tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    answer = wavetune("run", "sflllm", *settings(), "--track", "tensorboard", "--out", tmp_path / "run")
    assert answer.code == 0, answer.err
    assert "left out" not in answer.err
    found = reader.EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    losses = [(event.step, event.value) for event in found.Scalars("loss/training")]
    wanted = [(r.round + 1, r.train_loss) for r in read_run(tmp_path / "run").rounds]
    assert losses == [(step, pytest.approx(loss, rel=1e-6)) for step, loss in wanted]
    assert {"recipe/text_summary", "files/plan/text_summary", "files/summary/text_summary"} <= {
        *found.Tags()["tensors"]
    }


@pytest.mark.filterwarnings("ignore")
def test_mlflow_gets_parameters_metrics_plan_and_report_and_goes_on_after_a_stop(copied, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    follow(copied, "mlflow", rounds=(0, 1), finished=False)
    follow(copied, "mlflow", rounds=(1, 2))
    client = mlflow.MlflowClient()
    [run] = client.search_runs([client.get_experiment_by_name("wavetune").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["run.rounds"] == "2"
    assert run.data.params["method.topology.kind"] == "split"
    steps = [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, "loss/training")]
    assert steps == [(r.round + 1, r.train_loss) for r in copied.records.rounds]
    kept = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert kept == {"plan.json", "recipe.json", "report.html", "summary.json"}


@pytest.mark.filterwarnings("ignore")
def test_wandb_offline_keeps_the_run_on_this_disk(copied, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    follow(copied, "wandb")
    [kept] = (copied.folder / "wandb").glob("offline-run-*/run-*.wandb")
    until = time.monotonic() + 60  # its own process writes the file, later where there is other work
    while kept.stat().st_size <= 1000 and time.monotonic() < until:
        time.sleep(0.1)
    assert kept.stat().st_size > 1000
    assert json.loads((copied.folder / "trackers" / "wandb.json").read_text())["run"] in kept.name


def test_trackio_is_called_as_its_documentation_says(copied, monkeypatch):
    """Against a stand-in with the signatures of trackio 0.43: init, and log, log_artifact and finish of its run."""
    calls = []

    class Run:
        def __init__(self, name):
            self.name = name

        def log(self, metrics: dict, step: int | None = None):
            calls.append(("log", step, metrics))

        def log_artifact(self, artifact_or_path, name=None, type=None, aliases=None, overwrite=False):
            calls.append(("artifact", name))

        def finish(self):
            calls.append(("finish",))

    def init(project, name=None, group=None, space_id=None, server_url=None, dataset_id=None, bucket_id=None,
             config=None, resume="never", settings=None, private=None, embed=True):  # fmt: skip
        calls.append(("init", project, resume, config["run.rounds"]))
        return Run(name)

    module = types.ModuleType("trackio")
    module.init = init
    module.__spec__ = types.SimpleNamespace(name="trackio", origin="trackio")
    monkeypatch.setitem(sys.modules, "trackio", module)
    monkeypatch.setattr(tracking, "find_spec", lambda name: module.__spec__)
    follow(copied, "trackio")
    follow(copied, "trackio", rounds=(1, 2))
    assert [call for call in calls if call[0] == "init"] == [
        ("init", "wavetune", "never", 2),
        ("init", "wavetune", "must", 2),
    ]
    assert [call[1] for call in calls if call[0] == "log"] == [1, 2, 2]
    assert calls[1:3] == [("artifact", "recipe"), ("artifact", "plan")]
    assert calls[-1] == ("finish",)


class Down:
    """A client whose server is gone."""

    key = "down"

    def log(self, numbers, step):
        raise ConnectionError("http://user:pass-word@host:1/api?token=abc-def is gone")

    def files(self, paths):
        pass


def test_a_tracker_that_is_down_is_one_line_and_the_run_goes_on(copied, caplog):
    follower = shared.Tracking("mlflow", lambda *_: Down())
    watched = Watched(copied.folder, None, [follower])
    watched._tell("started", copied.folder, copied.recipe.to_dict(), 0)
    for record in copied.records.rounds:
        watched.round(record)
    watched.finished(copied.summary)
    watched.closed()
    [line] = [line for line in caplog.messages if "tracker" in line]
    assert line.startswith("the tracker mlflow is left out from here on, the run goes on: ConnectionError")
    assert "pass-word" not in line
    assert "abc-def" not in line


def test_a_tracker_that_hangs_holds_nothing_up(copied, caplog, monkeypatch):
    import threading

    monkeypatch.setattr(shared, "PATIENCE_S", 0.2)
    release = threading.Event()
    follower = shared.Tracking("mlflow", lambda *_: release.wait(60))
    watched = Watched(copied.folder, None, [follower])
    watched._tell("started", copied.folder, copied.recipe.to_dict(), 0)
    watched.round(copied.records.rounds[0])
    watched.closed()
    release.set()
    assert any("has not taken everything" in line for line in caplog.messages)


@pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio", "tensorboard"])
def test_a_tracker_that_is_not_installed_is_one_sentence_with_the_remedy(name, monkeypatch, tmp_path):
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    answer = wavetune("run", "sflllm", *settings(), "--track", name, "--out", tmp_path / "run")
    assert_refused(answer, f"pip install {name}")
    assert not (tmp_path / "run").exists()


WRONG = {
    "a name": ("tensorbord", "did you mean 'tensorboard'"),
    "no module": ("none_such:function", "cannot import the callback"),
    "no function": ("helpers.simple_rewards:none", "has no function"),
    "no callback": ("helpers.runs:SMALL", "a callback is"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_tracker_is_refused_before_anything_is_loaded(case, tmp_path):
    name, words = WRONG[case]
    answer = wavetune("run", "sflllm", *settings(), "--track", name, "--out", tmp_path / "run")
    assert_refused(answer, words)
    assert not (tmp_path / "run").exists()


def test_a_deployed_run_is_followed_in_its_servers_process_and_opens_data_given_as_an_object(tmp_path):
    (tmp_path / "mine.py").write_text(
        f"from pathlib import Path\ndef note(record):\n    Path({str(tmp_path / 'told')!r}).open('a').write('.')\n"
    )
    rows = [{"prompt": f"say {n}", "completion": f"{n} is said"} for n in range(30)]
    recipe = wt.recipe("sflllm", *SMALL, "world.data.train_samples=20", data=rows)
    run = wt.deploy(recipe, tmp_path / "run", [f"{tmp_path / 'mine.py'}:note"], devices=2)
    assert run.status == "finished"
    assert (tmp_path / "told").read_text() == ".."
    assert len(run.rounds) == 2
    assert "given as an object" in run.summary["data"]["name"]
