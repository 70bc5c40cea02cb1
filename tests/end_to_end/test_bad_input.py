"""Whatever is wrong with what the user gave: one sentence, exit code 2, and nothing that was saved is lost."""

import errno
import gzip
import json
import os
import resource
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import wavetune as wt
from helpers.command_line import assert_refused, settings, wavetune
from helpers.runs import assert_same_run, read_rounds
from helpers.training import folder_of
from wavetune.errors import ConfigError
from wavetune.federation.folder_lock import locked
from wavetune.federation.run_folder import RunFolder
from wavetune.recipe import load, save, with_settings
from wavetune.runtimes import inprocess, tuning

FAST = settings("run.samples=0", "run.rounds=3")


def run(*arguments):
    return wavetune("run", "sflllm", *FAST, *arguments)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert run("--out", folder).code == 0
    return folder


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("run.rouns=3", ["run has no field 'rouns'", "did you mean 'rounds'"]),
        ("rnu.rounds=3", ["'rnu'", "did you mean 'run'"]),
        ("world.scenario.bands.main.power=3", ["world.scenario.bands.main has no field 'power'"]),
        ("method.topology.kind=splitt", ["'splitt'", "did you mean 'split'"]),
        ("method.mixing.kind=mean", ["'mean'", "median"]),
        ("run.rounds.more=3", ["run.rounds holds a single value"]),
        ("run.rounds", ["path=value"]),
        ("run.rounds=ten", ["run.rounds is 'ten'", "integer"]),
        ("run.rounds=2.5", ["run.rounds is 2.5", "integer"]),
        ("run.rounds=true", ["run.rounds is True"]),
        ("run.rounds=0", ["run.rounds is 0", "greater than or equal to 1"]),
        ("run.rounds=[1,2]", ["run.rounds is"]),
        ("run={}x", ["run is"]),
        ("run=5", ["run is 5"]),
        ("run.seed=-1", ["run.seed is -1"]),
        ("run.precision=fp16", ["run.precision is 'fp16'", "'bf16'"]),
        ("method.optimiser.learning_rate=0", ["method.optimiser.learning_rate is 0"]),
        ("method.optimiser.learning_rate=NaN", ["method.optimiser.learning_rate is nan"]),
        ("method.optimiser.learning_rate=Infinity", ["method.optimiser.learning_rate is inf"]),
        ("method.optimiser.beta2=1", ["method.optimiser.beta2 is 1"]),
        ("method.lora.alpha=-4", ["method.lora.alpha is -4"]),
        ("method.lora.rank=0", ["method.lora.rank", "is 0"]),
        ("method.lora.rank=33", ["method.lora.rank is 33", "between 1 and 32"]),
        ("method.lora.rank=[2,2]", ["method.lora.rank has 2 entries for 3 clients"]),
        ('method.lora.targets=["qkv_proj"]', ["qkv_proj"]),
        ("method.topology.cut=5", ["method.topology.cut is 5", "between 1 and 4"]),
        ("method.topology.cut=0", ["method.topology.cut", "is 0"]),
        ("method.topology.cut=[1,2,9]", ["method.topology.cut is 9"]),
        ("method.topology.cut=[1,2]", ["2 entries for 3 clients"]),
        ("method.topology.cuts=[2,7]", ["method.topology.cuts is 7"]),
        ("method.rounds_to_target={}", ["method.rounds_to_target is empty", "measure-ranks"]),
        ("world.scenario.bands.main.subchannel_hz=0", ["subchannel_hz is 0"]),
        ("world.scenario.bands.fed.subchannel_hz=-5e5", ["subchannel_hz is -500000"]),
        ("world.scenario.bands.main.num_subchannels=0", ["num_subchannels is 0"]),
        ("world.scenario.bands.main.total_power_max_dbm=-1000", ["total_power_max_dbm is -1000"]),
        ("world.scenario.population.tx_power_max_dbm=Infinity", ["tx_power_max_dbm"]),
        ("world.scenario.population.num_clients=0", ["num_clients is 0"]),
        ("world.scenario.population.clock_hz=[2e9,1e9]", ["clock_hz", "swap"]),
        ("world.scenario.population.clock_hz=[0,1e9]", ["clock_hz"]),
        ("world.scenario.server.flop_per_s=-1", ["flop_per_s is -1"]),
        ("world.scenario.min_distance_m=500", ["min_distance_m"]),
        ('world.data.partition={"kind":"dirichlet","alpha":-1}', ["world.data.partition.alpha is -1", "greater than"]),
        ("world.data.max_tokens=3", ["max_tokens"]),
        ("world.data.batching.pool_batches=3", ["pool_batches", "power of two"]),
        ("world.data.train_samples=2", ["client 2 would be without data", "3 clients", "2"]),
        ("world.data.minimum_samples=40", ["without data", "population.num_clients or world.data.minimum_samples"]),
        ("world.data.template.kind=chat", ["chat template"]),
    ],
)
def test_setting_that_cannot_be_is_refused_before_anything_is_written(setting, words, tmp_path):
    assert_refused(run("--set", setting, "--out", tmp_path / "run"), *words)
    assert not (tmp_path / "run").exists()


def test_clients_without_a_domain_of_their_own_are_refused_by_name(tmp_path):
    rows = [{"prompt": f"p{i}", "completion": "x", "domain": "big" if i else "small"} for i in range(40)]
    write_rows(tmp_path / "data", rows)
    answer = run("--data", tmp_path / "data", "--set", "world.data.train_samples=null",
                 "--set", "world.data.partition.kind=by_domain", "--set", "world.data.minimum_samples=5")  # fmt: skip
    assert_refused(answer, "client", "minimum of 5")


def write_rows(folder, rows, name="train.jsonl"):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("\n".join(json.dumps(row) for row in rows))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"prompt": "a", "completion": "b"}\n{"prompt": ', ["train.jsonl:2", "not JSON"]),
        ("[1, 2]", ["train.jsonl row 0", "object"]),
        ('{"question": "a"}', ["train.jsonl:1", "question"]),
        ('{"prompt": "a", "completion": {}}', ["train.jsonl:1", "completion"]),
        ("", ["no rows"]),
        ('{"prompt": "a", "completion": "b"}', ["nothing to validate on", "world.data.validation_fraction=0"]),
        ('{"prompt": "a", "completion": ""}\n{"prompt": "b", "completion": ""}', ["has an answer"]),
    ],
)
def test_damaged_data_is_refused_with_file_and_line(content, words, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text(content)
    answer = run("--data", tmp_path / "data", "--set", "world.data.train_samples=null", "--out", tmp_path / "run")
    assert_refused(answer, *words)
    assert not (tmp_path / "run").exists()


def test_data_that_is_not_there_or_cannot_be_read_is_refused(tmp_path):
    assert_refused(run("--data", tmp_path / "nowhere"), "an existing folder or file")
    assert_refused(run("--data", "~nobody-here/rows.jsonl"), "an existing folder or file")
    (tmp_path / "empty").mkdir()
    assert_refused(run("--data", tmp_path / "empty"), "train.jsonl")
    (tmp_path / "train.jsonl").write_bytes(b"\xff\xfe\x00bad")
    assert_refused(run("--data", tmp_path / "train.jsonl"), "UTF-8")
    (tmp_path / "train.jsonl.gz").write_bytes(gzip.compress(b'{"prompt": "a", "completion": "b"}' * 90)[:40])
    assert_refused(run("--data", tmp_path / "train.jsonl.gz"), "train.jsonl.gz")


def test_more_training_samples_than_there_are_is_refused(tmp_path):
    write_rows(tmp_path / "data", [{"prompt": f"p{i}", "completion": "x"} for i in range(30)])
    answer = run("--data", tmp_path / "data", "--set", "world.data.train_samples=60")
    assert_refused(answer, "world.data.train_samples is 60", "ask for fewer, or for all by null")


@pytest.fixture
def model_copy(tmp_path):
    return Path(shutil.copytree(folder_of("tiny"), tmp_path / "model"))


def test_model_that_is_not_there_or_damaged_is_refused(model_copy, tmp_path):
    assert_refused(run("--model", "tny", "--out", tmp_path / "run"), "did you mean 'tiny'")
    assert_refused(run("--model", "~nobody-here/model", "--out", tmp_path / "run"), "~nobody-here/model")
    assert_refused(run("--model", tmp_path, "--out", tmp_path / "run"), "no config.json")
    weights = model_copy / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    assert_refused(run("--model", model_copy, "--out", tmp_path / "run"), "model.safetensors", "damaged")
    weights.write_bytes(whole)
    (model_copy / "config.json").write_text("{")
    assert_refused(run("--model", model_copy, "--out", tmp_path / "run"), "config.json")
    assert not (tmp_path / "run").exists()


def test_model_without_its_parts_is_refused(model_copy, tmp_path):
    tensors = load_file(model_copy / "model.safetensors")
    missing = {name: t for name, t in tensors.items() if "layers.2.mlp" not in name}
    save_file(missing, model_copy / "model.safetensors", metadata={"format": "pt"})
    answer = run("--model", model_copy, "--out", tmp_path / "run")
    assert_refused(answer, "layers.2.mlp")


def test_damaged_tokenizer_is_refused(model_copy, tmp_path):
    (model_copy / "tokenizer.json").write_text("{}")
    assert_refused(run("--model", model_copy, "--out", tmp_path / "run"), "tokenizer")
    assert_refused(wavetune("plan", "sflllm", *FAST, "--model", model_copy), "tokenizer")


def test_tokenizer_of_another_model_is_refused(model_copy, tmp_path):
    config = json.loads((model_copy / "config.json").read_text())
    tensors = load_file(model_copy / "model.safetensors")
    tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"][:64].clone()
    save_file(tensors, model_copy / "model.safetensors", metadata={"format": "pt"})
    (model_copy / "config.json").write_text(json.dumps({**config, "vocab_size": 64}))
    assert_refused(run("--model", model_copy, "--out", tmp_path / "run"), "the model knows 64 tokens")


def test_rows_longer_than_the_model_takes_are_refused(tmp_path):
    rows = [{"prompt": "long " * 200, "completion": f"{i}"} for i in range(30)] + [{"prompt": "a", "completion": "b"}]
    write_rows(tmp_path / "data", rows)
    long = ["--data", tmp_path / "data", "--set", "world.data.train_samples=null", "--model", "tiny-gpt2"]
    answer = run(*long, "--set", "world.data.max_tokens=600", "--out", tmp_path / "run")
    assert_refused(answer, "599 tokens but the model takes 512", "world.data.max_tokens")


def test_model_of_an_unknown_family_is_refused(model_copy, tmp_path):
    config = json.loads((model_copy / "config.json").read_text())
    (model_copy / "config.json").write_text(json.dumps({**config, "model_type": "no_such"}))
    assert_refused(run("--model", model_copy, "--out", tmp_path / "run"), "no_such")


def test_weight_that_is_not_a_number_stops_the_run_in_a_sentence(model_copy, tmp_path):
    tensors = load_file(model_copy / "model.safetensors")
    tensors["model.layers.2.mlp.down_proj.weight"][3, 5] = float("nan")
    save_file(tensors, model_copy / "model.safetensors", metadata={"format": "pt"})
    answer = run("--model", model_copy, "--out", tmp_path / "run")
    assert_refused(answer, "weights", "damaged")  # by the check of the model, or by its loss if that was made before


def test_loss_that_stops_being_a_number_names_round_and_client_and_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    step, steps = inprocess.train_round, []

    def poisoned(session, index, *rest):
        if index == 2:
            name = next(s.name for s in session.cohort.bank.sites if s.name.endswith("v_proj"))
            session.cohort.bank.local[name]["B"].data[:] = float("nan")  # of one client: the run goes on without it
        steps.append(index)
        return step(session, index, *rest)

    monkeypatch.setattr(inprocess, "train_round", poisoned)
    answer = run("--out", tmp_path / "run")
    assert_refused(answer, "round 2", "step 0", "the loss of client 0 is nan", "last checkpoint is kept")
    monkeypatch.undo()
    assert [record["round"] for record in read_rounds(tmp_path / "run")] == [0, 1]
    assert wavetune("run", "--resume", "--out", tmp_path / "run").code == 0
    assert run("--out", tmp_path / "whole").code == 0
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_memory_that_is_used_up_in_a_round_keeps_the_last_checkpoint(tmp_path, finished, monkeypatch):
    def used_up():
        yield "machine", MemoryError()
        yield "GPU", torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB.\nGPU 0 has")
        with pytest.raises(RuntimeError) as caught:
            torch.empty(1 << 60)
        yield "machine", caught.value

    step, words = inprocess.train_round, ["run", "sflllm", *FAST, "--out", tmp_path / "run"]
    for whose, error in used_up():

        def full(session, index, *rest, error=error):
            if index < 2:
                return step(session, index, *rest)
            raise error

        monkeypatch.setattr(inprocess, "train_round", full)
        assert_refused(wavetune(*words), f"the memory of the {whose} is used up")
        words = ["run", "--resume", "--out", tmp_path / "run"]
    monkeypatch.undo()
    assert wavetune(*words).code == 0
    assert_same_run(tmp_path / "run", finished)


def test_rate_that_makes_training_diverge_ends_in_a_sentence_or_a_finished_run(tmp_path):
    answer = run("--set", "method.optimiser.learning_rate=1e30", "--set", "method.optimiser.warmup_steps=0",
                 "--out", tmp_path / "run")  # fmt: skip
    assert_refused(answer, "round", "learning_rate")


def test_large_loss_is_reported_and_not_an_overflow(tmp_path):
    answer = run("--set", "method.optimiser.learning_rate=300", "--set", "method.optimiser.warmup_steps=0",
                 "--out", tmp_path / "run")  # fmt: skip
    assert answer.code == 0, answer.err
    assert "did not fall" in answer.out


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("command", ["run", "plan"])
def test_world_whose_delay_is_beyond_all_numbers_is_refused(command, tmp_path):
    extra = ["--out", tmp_path / "run"] if command == "run" else ["--json", "-"]
    endless = ("--set", "world.scenario.unusual=true", "--set", "world.scenario.server.flop_per_s=1e-300")
    answer = wavetune(command, "sflllm", *FAST, *endless, *extra)
    assert_refused(answer, "not finite", "world.scenario")


def test_folder_that_holds_a_run_is_not_overwritten(finished):
    before = (finished / "recipe.json").read_bytes()
    assert_refused(run("--out", finished), "already holds a run", "--resume")
    assert (finished / "recipe.json").read_bytes() == before


def test_resuming_what_is_no_run_is_refused(tmp_path):
    assert_refused(wavetune("run", "--resume", "--out", tmp_path), "holds no run")
    assert_refused(wavetune("run", "--resume"), "no recipe given")


CHANGES = [
    ("--set", "run.rounds=3"),
    ("--data", "concierge"),
    ("--model", "tiny"),
    ("--device", "cpu"),
    ("--seed", "4"),
]


@pytest.mark.parametrize("option", CHANGES, ids=lambda option: option[0])
@pytest.mark.parametrize("command", ["run", "serve", "deploy", "deploy --flower"])
def test_options_that_a_resumed_run_would_not_follow_are_refused(command, option, finished):
    answer = wavetune(*command.split(), "--resume", *option, "--out", finished)
    assert_refused(answer, f"{option[0]} does not go with --resume: a run continues with the recipe in its folder")


@pytest.mark.parametrize("command", ["run", "deploy", "deploy --flower"])
def test_a_run_is_not_continued_as_one_of_another_recipe(command, finished):
    answer = wavetune(*command.split(), "fedavg_lora", "--resume", "--out", finished)
    assert_refused(answer, f"fedavg_lora does not go with --resume: the run in {finished} is one of sflllm")


@pytest.mark.parametrize("command", ["run", "deploy"])
@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("run.seed", 5),
        ("method.optimiser.learning_rate", 0.5),
        ("world.data.template.kind", "instruction"),
        ("world.data.template.separator", "="),
    ],
)
def test_a_run_is_not_continued_with_a_file_that_says_something_else(command, path, value, finished, tmp_path):
    other = tmp_path / "other.json"
    save(with_settings(load(finished / "recipe.json"), [f"{path}={value}"]), other)
    answer = wavetune(*command.split(), other, "--resume", "--out", finished)
    assert_refused(answer, f"{path} is not as it was when the run in {finished} began", "leave the recipe out")
    with pytest.raises(ConfigError, match=path):
        wt.run(load(other), finished, resume=True)


@pytest.mark.parametrize("named", ["sflllm", "recipe.json"])
def test_a_run_is_continued_where_its_own_recipe_is_named(named, finished):
    recipe = finished / named if named.endswith(".json") else named
    assert wavetune("run", recipe, "--resume", "--out", finished).code == 0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--base", "--client", 1], "--client does not go with --base"),
        (["--seed", 3], "--seed has no effect without --temperature above 0"),
        (["--seed", 3, "--temperature", 0], "--seed has no effect without --temperature above 0"),
    ],
)
def test_options_of_an_answer_that_have_no_effect_are_refused(options, sentence, finished):
    assert_refused(wavetune("generate", finished, "--prompt", "x", *options), sentence)


def test_finished_run_is_not_started_over_by_flower(finished):
    answer = wavetune("deploy", "--flower", "--resume", "--out", finished)
    assert answer.code == 0
    assert f"the run in {finished} is finished" in answer.out


def test_number_of_devices_does_not_change_when_a_run_is_resumed(finished):
    answer = wavetune("deploy", "--resume", "--devices", "4", "--out", finished)
    assert_refused(answer, "--devices does not go with --resume")


def unfinished(run, tmp_path):
    """A copy of a run as it is where only its end is missing."""
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    (copy / "summary.json").unlink()
    return copy


@pytest.mark.parametrize("name", ["recipe.json", "rounds.jsonl", "plan.json", "state.json"])
def test_resuming_a_damaged_run_is_refused(name, finished, tmp_path):
    copy = unfinished(finished, tmp_path)
    (copy / name).write_text("{damaged\n")
    assert_refused(wavetune("run", "--resume", "--out", copy), name)


def test_plan_of_a_run_with_a_negative_power_is_refused(finished, tmp_path):
    copy = unfinished(finished, tmp_path)
    planned = json.loads((copy / "plan.json").read_text())
    planned["bands"]["main"]["power_w"][0] = -1
    (copy / "plan.json").write_text(json.dumps(planned))
    assert_refused(wavetune("run", "--resume", "--out", copy), "plan.json", "a power is negative")


def test_plan_file_that_is_no_plan_is_refused(finished, tmp_path):
    copy = unfinished(finished, tmp_path)
    (copy / "plan.json").write_text("{}")
    assert_refused(wavetune("run", "--resume", "--out", copy), "plan.json")


def test_output_in_the_way_of_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    assert_refused(run("--out", tmp_path / "file" / "run"), "cannot write", "not a directory")
    assert_refused(run("--out", tmp_path / "file"), "cannot write", "file")
    assert_refused(wavetune("plan", "sflllm", *FAST, "--json", tmp_path / "file" / "plan.json"), "cannot write")
    assert_refused(wavetune("plan", "sflllm", *FAST, "--json", tmp_path), "cannot write")


def test_read_only_output_is_refused(tmp_path, monkeypatch):
    def refuse(path, *_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert_refused(run("--out", tmp_path / "run"), "cannot write", "read-only file system")


class FullDisk:
    """No file of this process may grow beyond a size: writing fails as on a full disk, within this block."""

    def __init__(self, size_bytes):
        self.size_bytes = size_bytes

    def __enter__(self):
        self.before = resource.getrlimit(resource.RLIMIT_FSIZE)
        self.handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.size_bytes, self.before[1]))

    def __exit__(self, *_):
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)
        signal.signal(signal.SIGXFSZ, self.handler)


def test_disk_that_fills_up_while_training_keeps_the_last_checkpoint(tmp_path, finished, monkeypatch):
    save, out = RunFolder.save_checkpoint, tmp_path / "run"

    def full(folder, rounds_done, tensors):
        if rounds_done < 3:
            return save(folder, rounds_done, tensors)
        with FullDisk(1000):
            return save(folder, rounds_done, tensors)

    monkeypatch.setattr(RunFolder, "save_checkpoint", full)
    assert_refused(run("--out", out), "cannot write", "round-000003", "--resume")
    monkeypatch.undo()
    assert wavetune("run", "--resume", "--out", out).code == 0
    assert_same_run(out, finished)


@pytest.mark.parametrize(("where", "owner"), [(tuning, "export"), (inprocess, "_finish")])
def test_disk_that_is_full_when_results_are_written_keeps_the_run(where, owner, tmp_path, finished, monkeypatch):
    write = getattr(where, owner)

    def full(*arguments):
        with FullDisk(100):
            return write(*arguments)

    monkeypatch.setattr(where, owner, full)
    assert_refused(run("--out", tmp_path / "run"), "cannot write", "--resume")
    monkeypatch.undo()
    assert wavetune("run", "--resume", "--out", tmp_path / "run").code == 0
    assert_same_run(tmp_path / "run", finished)


def test_report_and_generate_refuse_what_is_no_run(tmp_path, finished):
    assert_refused(wavetune("report", tmp_path), str(tmp_path))
    assert_refused(wavetune("report", tmp_path / "nowhere"), "nowhere")
    (tmp_path / "file").write_text("")
    assert_refused(wavetune("report", finished, "--out", tmp_path / "file" / "page.html"), "cannot write")
    assert_refused(wavetune("generate", tmp_path, "--prompt", "x"), "holds no run")
    assert_refused(wavetune("generate", finished, "--prompt", "x", "--client", 7), "client-07", "client-02")


def test_generating_from_an_unfinished_run_says_what_to_do(tmp_path, finished):
    copy = Path(shutil.copytree(finished, tmp_path / "run"))
    shutil.rmtree(copy / "adapters")
    assert_refused(wavetune("generate", copy, "--prompt", "x"), "--resume")


def test_damaged_adapter_is_refused(tmp_path, finished):
    copy = Path(shutil.copytree(finished, tmp_path / "run"))
    (copy / "adapters" / "global" / "adapter_model.safetensors").write_bytes(b"damaged")
    assert_refused(wavetune("generate", copy, "--prompt", "x"), "adapter")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_device_that_is_not_there_is_refused(tmp_path):
    assert_refused(run("--device", "cuda", "--out", tmp_path / "run"), "no CUDA device")
    assert_refused(run("--device", "tpu", "--out", tmp_path / "run"), "'tpu' is not one of 'auto', 'cpu', 'cuda'")


@pytest.mark.parametrize("text", ["", "{", "[]", "5", '{"name": "x"}', '{"world": 5}', '{"local_steps": 1}'])
def test_file_that_is_no_recipe_or_instance_is_refused(text, tmp_path):
    (tmp_path / "mine.json").write_text(text)
    assert_refused(wavetune("run", tmp_path / "mine.json"))
    assert_refused(wavetune("plan", tmp_path / "mine.json"))


def test_file_that_is_not_there_is_refused(tmp_path):
    assert_refused(wavetune("run", tmp_path / "mine.json"), "mine.json")
    assert_refused(wavetune("plan", tmp_path / "mine.json"), "mine.json")
    assert_refused(wavetune("plan", "sflllm", *FAST, "--rank-table", tmp_path / "ranks.json"), "ranks.json")


@pytest.mark.parametrize(
    "command",
    [
        ("run", "sflllm"),
        ("run", "--resume"),
        ("compare", "pwff"),
        ("sweep", "sflllm", "--over", "num_clients=2,3"),
        ("train-reward", "--kind", "helpful"),
    ],
)
def test_a_folder_in_which_another_process_works_is_refused(command, tmp_path):
    if "--resume" in command:
        (tmp_path / "recipe.json").write_text(wavetune("show", "sflllm").out)
    before = {path.name for path in tmp_path.iterdir()}
    with locked(tmp_path):
        assert_refused(wavetune(*command, "--out", tmp_path), f"is in use by process {os.getpid()}")
    assert {path.name for path in tmp_path.iterdir()} == before
