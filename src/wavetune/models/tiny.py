"""Tiny random models with a byte tokenizer, for tests and first tries without a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

NOTE = "tiny random weights with a byte tokenizer, for tests: it knows no language"
SPECIAL_TOKENS = ("<pad>", "<s>", "</s>")
VOCAB_SIZE = 512  # above the 259 ids in use, as in released models whose vocabulary is padded
MAX_TOKENS = 512
INITIALIZER_RANGE = 0.1  # five times the usual: at width 64 every block then visibly changes the output


_SIZES = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": MAX_TOKENS,
    "initializer_range": INITIALIZER_RANGE,
    "pad_token_id": 0,
}
_ENDS = {"bos_token_id": 1, "eos_token_id": 2}


def write_tiny(folder: Path, say: Callable[[str], None]) -> None:
    """Llama-style: 4 blocks of width 64, 4 heads on 2 key-value heads, tied embeddings."""
    own = {"intermediate_size": 128, "num_key_value_heads": 2, "tie_word_embeddings": True}
    _write(folder, say, "llama", own | _ENDS)


def write_tiny_gpt2(folder: Path, say: Callable[[str], None]) -> None:
    """GPT-2-style: 4 blocks of width 64, 4 heads, tied embeddings."""
    _write(folder, say, "gpt2", _ENDS)


def write_tiny_bert(folder: Path, say: Callable[[str], None]) -> None:
    """BERT-style encoder: 4 blocks of width 64, 4 heads; its tokenizer puts start and end around a text."""
    _write(folder, say, "bert", {"intermediate_size": 128})


def _write(folder: Path, say: Callable[[str], None], family: str, own: Mapping[str, object]) -> None:
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    say("writing a tiny random model")
    encoder = family == "bert"
    config = AutoConfig.for_model(family, **_SIZES, **own)
    with torch.random.fork_rng(devices=[]):  # the caller's random state stays as it is
        torch.manual_seed(0)
        model = (AutoModel if encoder else AutoModelForCausalLM).from_config(config)
    model.save_pretrained(folder)
    byte_tokenizer(encoder).save_pretrained(folder)


def byte_tokenizer(encoder: bool = False) -> PreTrainedTokenizerFast:
    """Tokenizer whose pieces are the 256 bytes of UTF-8, after padding, start and end (around an encoder's texts)."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    pieces = [*SPECIAL_TOKENS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    pad, start, end = SPECIAL_TOKENS
    if encoder:
        numbered = [(piece, pieces.index(piece)) for piece in (start, end)]
        backend.post_processor = processors.TemplateProcessing(f"{start} $A {end}", None, numbered)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token=pad, bos_token=start, eos_token=end, model_max_length=MAX_TOKENS
    )
