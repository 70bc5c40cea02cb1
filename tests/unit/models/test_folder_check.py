"""Folders that look like models but cannot be used end in one sentence, before anything large is read or built."""

import ast
import json
import os
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForSequenceClassification

import wavetune
from helpers.training import folder_of
from wavetune.errors import ModelError
from wavetune.models.backbone import load_backbone, load_stock_model, load_tokenizer
from wavetune.models.folder_check import check_weights
from wavetune.models.part import load_part
from wavetune.models.resolve import resolve_model


@pytest.fixture
def folder(tmp_path):
    """A copy of the tiny model, to be spoiled."""
    return shutil.copytree(folder_of("tiny"), tmp_path / "model")


def configure(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def refused(folder, message):
    for opened in (resolve_model, load_backbone, lambda f: load_part(f, range(1), head=False)):
        with pytest.raises(ModelError, match=message):
            opened(folder)


@pytest.mark.parametrize(
    ("config", "method"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ({"load_in_4bit": True}, "bitsandbytes"),
        ({"quant_method": "gptq", "bits": 4}, "gptq"),
        ({"quant_method": "awq"}, "awq"),
        ({"quant_method": "fp8"}, "fp8"),
        ({"quant_method": "mxfp4"}, "mxfp4"),
        ({"bits": 3}, "an unnamed method"),
    ],
)
def test_quantised_models_are_refused_by_the_name_of_their_method(folder, config, method):
    configure(folder, quantization_config=config)
    refused(folder, rf"quantised \({method}\).*use the unquantised model")


def test_quantisation_of_a_part_is_found(folder):
    configure(folder, text_config={"quantization_config": {"quant_method": "awq"}})
    refused(folder, r"quantised \(awq\)")


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32, torch.float8_e4m3fn])
def test_packed_weights_are_refused_whatever_the_config_says(folder, dtype):
    weights = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    save_file(weights | {name: weights[name].to(dtype)}, folder / "model.safetensors")
    refused(folder, r"up_proj\.weight as packed")


def test_an_adapter_beside_the_base_model_is_not_taken_for_a_part_of_it(folder):
    (folder / "adapter_config.json").write_text("{}")
    refused(folder, r"a base model and an adapter \(adapter_config\.json\): move")


@pytest.mark.parametrize("with_config", [True, False])
def test_gguf_weights_are_named(folder, with_config):
    (folder / "model.safetensors").rename(folder / "model-q4.gguf")
    if not with_config:
        (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"as GGUF \(model-q4\.gguf\).*in safetensors"):
        resolve_model(folder)


@pytest.mark.parametrize("count", [1_000_000, 10**30, -5])
def test_counts_beyond_reason_are_refused_before_anything_is_built(folder, count):
    configure(folder, num_hidden_layers=count)
    refused(folder, f"num_hidden_layers = {count}, outside")


def test_labels_beyond_all_reason_are_refused_before_each_is_given_a_name(folder):
    configure(folder, num_labels=1_000_001)
    refused(folder, "num_labels = 1000001, outside")


def test_a_config_of_more_blocks_than_the_weights_have_is_refused(folder):
    configure(folder, num_hidden_layers=4000)
    with pytest.raises(ModelError, match="asks for 4000 blocks, but the weights are of 4"):
        load_backbone(folder)


def test_a_config_of_fewer_blocks_than_the_weights_have_is_refused(folder):
    configure(folder, num_hidden_layers=2)
    with pytest.raises(
        ModelError, match=r"asks for 2 blocks, but the weights are of 4, .* save the shorter model with"
    ):
        load_backbone(folder)
    weights = load_file(folder / "model.safetensors")
    tower = {f"vision_tower.layers.{i}.norm.weight": torch.ones(3) for i in range(6)}
    save_file(weights | tower, folder / "model.safetensors")
    check_weights(folder, 2)  # it cannot be told which of them is the text's


def test_shards_without_their_index_are_named(folder):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    with pytest.raises(ModelError, match=r"holds model-00001-of-00002\.safetensors, but neither .*index\.json"):
        resolve_model(folder)


def test_a_tokenizer_that_cannot_be_converted_is_refused_with_what_to_install(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02")
    with pytest.raises(ModelError, match=r"it has no tokenizer\.json; install sentencepiece, or tiktoken"):
        load_tokenizer(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "special_tokens_map.json", "tokenizer.json"])
def test_a_pipe_in_a_model_folder_is_refused_instead_of_waited_for(folder, name):
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(ModelError, match=rf"{name}: it is a pipe"):
        resolve_model(folder)


def test_a_vocabulary_unlike_the_weights_is_refused_by_both_sizes(folder, capfd):
    configure(folder, vocab_size=300)
    with pytest.raises(ModelError, match=r"holds model\.embed_tokens\.weight as \(\d+, 64\), but .* \(300, 64\)"):
        load_backbone(folder)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", [AutoModel, AutoModelForSequenceClassification])
def test_a_model_saved_without_its_output_layer_says_so(folder, kind):
    configure(folder, tie_word_embeddings=False)
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {"lm_head.weight": weights["model.embed_tokens.weight"].clone()}, folder / "model.safetensors")
    kind.from_pretrained(folder).save_pretrained(folder)
    with pytest.raises(ModelError, match=r"was saved as Llama\w+, without an output layer \(lm_head\.weight\)"):
        load_backbone(folder)
    assert load_backbone(folder, outputs=2).sites[-1].kind == "head"  # a classifier needs none


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("no_such_family", "needs model code that this transformers does not have"),
        ("t5", "an encoder and a decoder"),
        ("vit", "neither predicts the next token of a text nor"),
    ],
)
def test_other_kinds_of_models_are_refused_for_what_they_are(folder, kind, message):
    configure(folder, model_type=kind)
    with pytest.raises(ModelError, match=message) as refusal:
        load_backbone(folder)
    assert "did you mean" not in str(refusal.value)


def test_the_attention_that_a_folder_asks_for_is_not_needed(folder):
    configure(folder, _attn_implementation="flash_attention_2", attn_implementation="flash_attention_2")
    assert load_stock_model(folder).config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    ("wrong", "opened", "message"),
    [
        ({"hidden_size": "64"}, load_tokenizer, "cannot load a causal language model from .*hidden_size.*expected int"),
        ({"hidden_act": "wavy"}, load_stock_model, "it names 'wavy', which is unknown"),
        (
            {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}},
            load_stock_model,
            "^cannot load a causal language model from [^:]*: .?Missing required keys .*factor",
        ),
    ],
)
def test_a_config_that_is_wrong_is_named_and_not_the_tokenizer(folder, wrong, opened, message):
    configure(folder, **wrong)
    with pytest.raises(ModelError, match=message):
        opened(folder)


def test_code_of_a_folder_never_runs_whatever_is_answered(folder, tmp_path, monkeypatch):
    """Transformers asks at a terminal whether to run it."""
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nclass C: pass\n", encoding="utf-8")
    auto = {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.C", "AutoTokenizer": ["evil.C", "evil.C"]}
    configure(folder, model_type="no_such_family", auto_map=auto)
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(
        json.dumps(tokenizer | {"auto_map": {"AutoTokenizer": ["evil.C", "evil.C"]}, "tokenizer_class": "C"})
    )
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    for opened in (load_stock_model, lambda f: load_part(f, range(1), head=False), load_tokenizer):
        with suppress(ModelError):
            opened(folder)
    assert not (tmp_path / "ran").exists()


def test_a_model_that_needs_code_of_its_own_is_refused_as_such_however_long_its_path(folder, tmp_path):
    """What transformers says begins with the path, twice."""
    far = shutil.copytree(folder, tmp_path / ("far" * 50))
    configure(far, model_type="no_such_family", auto_map={"AutoConfig": "own.C"})
    with pytest.raises(ModelError, match="code from a model's folder is never run"):
        load_stock_model(far)


def test_a_tokenizer_that_needs_code_of_its_own_is_refused_as_such(folder):
    file = folder / "tokenizer_config.json"
    own = {"auto_map": {"AutoTokenizer": ["own.C", None]}, "tokenizer_class": "C"}
    file.write_text(json.dumps(json.loads(file.read_text()) | own))
    with pytest.raises(ModelError, match="names a tokenizer's code, and code from a model's folder is never run: save"):
        load_tokenizer(folder)


def test_no_call_opens_a_model_without_refusing_its_code():
    """Classes that choose a class by what a folder says are the ones that would run its code."""
    for path in Path(wavetune.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = node.func if isinstance(node, ast.Call) else None
            if isinstance(called, ast.Attribute) and called.attr == "from_pretrained":
                text = ast.unparse(node)
                chooses = ast.unparse(called.value).startswith(("Auto", "kind"))
                assert not chooses or "**LOCAL" in text or "trust_remote_code=False" in text, f"{path}: {text}"
