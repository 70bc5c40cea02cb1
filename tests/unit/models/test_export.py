import json
import warnings

import pytest
import torch
from peft import PeftModel

from helpers.adapters import pair_of
from helpers.training import folder_of, random_factors
from wavetune.models.backbone import load_backbone, load_stock_model
from wavetune.models.export import save_peft_adapter


@pytest.fixture(params=["tiny", "tiny-gpt2"])
def model(request):
    return request.param


def exported(model, folder, rank=3, scale=1.7):
    backbone = load_backbone(folder_of(model))
    factors = {name: pair_of(*pair) for name, pair in random_factors(backbone, rank, seed=5).items()}
    save_peft_adapter(folder, factors, backbone.sites, scale, str(folder_of(model)), backbone)
    return factors


def loaded(model, folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return PeftModel.from_pretrained(load_stock_model(folder_of(model)), str(folder))


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


def test_files_of_equal_adapters_are_equal_whatever_the_process(tmp_path):
    """PEFT alone writes its targets in the order of a set, which Python shuffles from process to process."""
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
