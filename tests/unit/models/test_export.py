import json
import sys
import warnings

import pytest
import torch
from peft import LoraConfig, PeftModel, PromptTuningConfig

from helpers.adapters import pair_of
from helpers.training import folder_of, random_factors
from wavetune.models.backbone import load_backbone, load_stock_model
from wavetune.models.export import save_peft_adapter, save_peft_prompt


@pytest.fixture(params=["tiny", "tiny-gpt2"])
def model(request):
    return request.param


def exported(model, folder, rank=3, scale=1.7, backbone=None):
    backbone = backbone or load_backbone(folder_of(model))
    factors = {name: pair_of(*pair) for name, pair in random_factors(backbone, rank, seed=5).items()}
    save_peft_adapter(folder, factors, backbone.sites, scale, str(folder_of(model)), backbone)
    return factors


def loaded(model, folder, stock=None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return PeftModel.from_pretrained(stock or load_stock_model(folder_of(model)), str(folder))


def test_peft_loads_an_adapter_and_merges_to_scale_times_the_product(model, tmp_path):
    factors = exported(model, tmp_path / "global")
    merged, base = loaded(model, tmp_path / "global").merge_and_unload(), load_stock_model(folder_of(model))
    assert factors
    for name, pair in factors.items():
        A, B = pair.values()
        update = merged.get_submodule(name).weight - base.get_submodule(name).weight
        torch.testing.assert_close(update if "gpt2" in model else update.t(), 1.7 * A @ B, rtol=1e-5, atol=1e-6)


def test_folder_names_the_base_and_holds_no_pickle(tmp_path):
    exported("tiny", tmp_path / "global")
    assert sorted(p.name for p in (tmp_path / "global").iterdir() if p.suffix != ".md") == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    config = json.loads((tmp_path / "global" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(folder_of("tiny"))
    assert config["r"] == 3
    assert config["target_modules"] == ["q_proj", "v_proj"]


def test_the_config_is_the_one_that_peft_makes_of_the_same_adapter(model, tmp_path):
    exported(model, tmp_path / "a")
    assert LoraConfig.from_pretrained(str(tmp_path / "a")) == LoraConfig(
        r=3,
        lora_alpha=1.7 * 3,
        target_modules=["c_attn"] if "gpt2" in model else ["q_proj", "v_proj"],
        fan_in_fan_out="gpt2" in model,
        task_type="CAUSAL_LM",
        base_model_name_or_path=str(folder_of(model)),
        inference_mode=True,
    )


def test_maps_are_named_by_their_paths_where_another_module_has_their_name(tmp_path):
    backbone, stock = load_backbone(folder_of("tiny")), load_stock_model(folder_of("tiny"))
    for model in (backbone.model, stock):  # as in towers for images, whose maps stand within others
        model.tower = torch.nn.ModuleDict({"q_proj": torch.nn.Sequential(torch.nn.Linear(2, 2))})
    factors = exported("tiny", tmp_path / "a", backbone=backbone)
    adapted = loaded("tiny", tmp_path / "a", stock)
    found = {name for name, _ in adapted.base_model.model.named_modules() if name.endswith("_proj.lora_A")}
    assert found == {f"{name}.lora_A" for name in factors}


def test_the_config_of_a_soft_prompt_is_the_one_that_peft_makes_of_it(tmp_path):
    backbone = load_backbone(folder_of("tiny"))
    width = backbone.model.config.hidden_size
    save_peft_prompt(tmp_path, torch.zeros(3, width), "base", backbone)
    assert PromptTuningConfig.from_pretrained(str(tmp_path)) == PromptTuningConfig(
        num_virtual_tokens=3,
        token_dim=width,
        num_transformer_submodules=1,
        num_layers=backbone.num_layers,
        num_attention_heads=backbone.model.config.num_attention_heads,
        task_type="CAUSAL_LM",
        base_model_name_or_path="base",
        inference_mode=True,
    )


def test_an_adapter_is_saved_without_importing_peft(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    exported("tiny", tmp_path / "a")


def test_files_of_equal_adapters_are_equal_whatever_the_process(tmp_path):
    backbone = load_backbone(folder_of("tiny"), ["gate_proj", "q_proj", "k_proj", "v_proj", "o_proj", "up_proj"])
    factors = {name: pair_of(*pair) for name, pair in random_factors(backbone, 2, seed=5).items()}
    save_peft_adapter(tmp_path / "a", factors, backbone.sites, 1.0, "base", backbone)
    targets = json.loads((tmp_path / "a" / "adapter_config.json").read_text())["target_modules"]
    assert targets == sorted(targets)


def test_exporting_again_replaces_the_folder_whole(tmp_path):
    exported("tiny", tmp_path / "global", rank=5)
    (tmp_path / "global" / "left_over").touch()
    (tmp_path / "global.part").mkdir()  # by a killed process
    exported("tiny", tmp_path / "global", rank=2)
    assert not (tmp_path / "global" / "left_over").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["global"]
    assert loaded("tiny", tmp_path / "global").peft_config["default"].r == 2
