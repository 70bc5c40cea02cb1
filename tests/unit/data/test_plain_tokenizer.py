import json
import os
import shutil

import pytest

from helpers.training import folder_of
from wavetune.data.plain_tokenizer import PlainTokenizer
from wavetune.errors import ModelError


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
