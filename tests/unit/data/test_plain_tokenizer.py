import json
import os
import shutil

import pytest

from helpers.training import folder_of
from wavetune.data.pieces import encode
from wavetune.data.plain_tokenizer import PlainTokenizer
from wavetune.errors import ModelError
from wavetune.models.stock import load_tokenizer


@pytest.mark.parametrize("damage", ["number for a token", "list", "pipe", "folder", "not JSON"])
def test_a_damaged_tokenizer_is_refused_and_not_waited_for(tmp_path, damage):
    folder = shutil.copytree(folder_of("tiny"), tmp_path / "model")
    tokenizer, config = folder / "tokenizer.json", folder / "tokenizer_config.json"
    if damage == "number for a token":
        config.write_text(json.dumps(json.loads(config.read_text()) | {"eos_token": 0.5}))
    elif damage == "list":
        config.write_text("[]")
    elif damage == "not JSON":
        tokenizer.write_text("{")
    else:
        tokenizer.unlink()
        os.mkfifo(tokenizer) if damage == "pipe" else tokenizer.mkdir()
    with pytest.raises(ModelError, match=r"cannot load the tokenizer in .*fetch the model again"):
        PlainTokenizer(folder)


def changed(tmp_path, **values):
    """A copy of the tiny model whose tokenizer.json has other values, those of its `model` apart."""
    folder = shutil.copytree(folder_of("tiny"), tmp_path / "model")
    about = json.loads((folder / "tokenizer.json").read_text())
    about["model"] |= values.pop("model", {})
    (folder / "tokenizer.json").write_text(json.dumps(about | values))
    return folder


@pytest.mark.parametrize("opened", [PlainTokenizer, load_tokenizer])
def test_texts_are_neither_cut_nor_padded_nor_drawn_whatever_a_tokenizers_file_asks_for(opened, tmp_path):
    cut = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    pad = {"strategy": {"Fixed": 20}, "direction": "Left", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0}
    pieces = json.loads((folder_of("tiny") / "tokenizer.json").read_text())["model"]["vocab"]
    drawn = {"vocab": pieces | {"aa": len(pieces)}, "merges": [["a", "a"]], "dropout": 0.5}
    folder = changed(tmp_path, truncation=cut, padding={**pad, "pad_token": "<pad>"}, model=drawn)
    found = encode(opened(folder), ["a" * 40, "ab"])
    assert found[0] == [len(pieces)] * 20
    assert len(found[1]) == 2


def test_settings_that_a_tokenizer_meets_with_its_first_text_are_looked_at_when_it_is_opened(tmp_path):
    folder = changed(tmp_path)
    settings = json.loads((folder / "tokenizer_config.json").read_text()) | {"model_max_length": "512"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match="cannot load the tokenizer"):
        load_tokenizer(folder)


@pytest.mark.parametrize("opened", [PlainTokenizer, load_tokenizer])
@pytest.mark.parametrize("wrong", ["panic", "error"])
def test_a_tokenizer_that_fails_on_the_texts_is_refused_in_a_sentence(opened, wrong, tmp_path, capfd):
    bytewise = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": "(a|a|[a-z]+)+$x"}, "behavior": "Isolated", "invert": False}
    if wrong == "panic":  # of a search that takes too long
        folder = changed(tmp_path, pre_tokenizer={"type": "Sequence", "pretokenizers": [split, bytewise]})
    else:
        model = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##"}
        folder = changed(tmp_path, model={**model, "max_input_chars_per_word": 100})
    with pytest.raises(ModelError, match=r"tokenizer fails on the texts .*correct its|cannot load the tokenizer"):
        encode(opened(folder), ["a" * 40 + "?"])
    capfd.readouterr()  # what the library says of a panic
