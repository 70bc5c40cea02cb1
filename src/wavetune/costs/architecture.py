"""What a model looks like to a cost model: its blocks and the sizes around them, read from its Hugging Face config."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from wavetune.costs.block_formulas import BlockSizes, serial_block
from wavetune.costs.hf_config import ConfigReader
from wavetune.costs.operations import ALL_LINEAR, Block, Projection, named
from wavetune.errors import ConfigError, ModelError, nearest

ENCODERS = ("bert", "roberta", "xlm-roberta")
LLAMA_LIKE = ("llama", "mistral", "qwen2", "qwen3", "smollm3", "gemma3_text")
WRITTEN_DOWN = ("gpt2", *LLAMA_LIKE, *ENCODERS)


@dataclass(frozen=True)
class Architecture:
    """A stack of blocks, an embedding below them, a norm and a head above; an encoder may have nothing above them.

    Args:
        family: the `model_type` of its config.
        hidden_size: width of the residual stream, D.
        vocab_size: rows of the embedding and of the head.
        embedding_values: parameters of all that runs before the blocks (values).
        head_values: entries of the head's matrix, whether or not it is the embedding's; 0 for an encoder (values).
        tied_embeddings: whether the head is the embedding's matrix.
        final_norm_values: parameters of what runs between blocks and head (values).
        final_norm_statistics: scalars that the final norm keeps for a token.
        passing_values_per_token: what exists for a moment in a block's largest step (values per token).
        default_lora_targets: the modules PEFT adapts in this family unless told otherwise.
        blocks: the L blocks.
        note: what of it could not be counted, as a sentence; "" if all was.
    """

    family: str
    hidden_size: int
    vocab_size: int
    embedding_values: int
    head_values: int
    tied_embeddings: bool
    final_norm_values: int
    final_norm_statistics: int
    passing_values_per_token: int
    default_lora_targets: tuple[str, ...]
    blocks: tuple[Block, ...]
    note: str = ""

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> Architecture:
        """Architecture of a family that is written down here, described by a Hugging Face config.

        Args:
            config: the parsed `config.json`, or `PretrainedConfig.to_dict()`.

        Returns:
            The architecture; per-layer attention windows are accepted and not told apart.

        Raises:
            ModelError: a needed key is missing or malformed, or names a pattern that is not written down.

        >>> Architecture.from_config(PRESET_CONFIGS["gpt2"]).num_parameters
        124439808
        """
        reader = ConfigReader(config)
        why = reader.unknown_pattern()
        if reader.family not in WRITTEN_DOWN or why:
            raise ModelError(
                f"the model config {why or f'is of type {reader.family!r}'}, for which no formula is written down: its "
                "costs are counted from the model itself (wavetune.models.architecture)"
            )
        if reader.family == "gpt2":
            return _gpt2(reader)
        return _bert(reader) if reader.family in ENCODERS else _llama_like(reader)

    @property
    def num_layers(self) -> int:
        """L, the number of blocks."""
        return len(self.blocks)

    @property
    def num_parameters(self) -> int:
        """Parameters of the whole model, a tied head counted once, an encoder's pooler not at all (values).

        >>> PRESETS["smollm2-135m"].num_parameters
        134515008
        """
        head = 0 if self.tied_embeddings else self.head_values
        return self.embedding_values + sum(b.values for b in self.blocks) + self.final_norm_values + head

    def lora_projections(self, lora_targets: Iterable[str]) -> tuple[Projection, ...]:
        """Linear maps that PEFT adapts for a list of target modules, each of any block once.

        As in PEFT, a target names a module or the end of its dotted path: GPT-2's "c_proj" is both "attn.c_proj"
        and "mlp.c_proj"; "all-linear" means all of them.

        Args:
            lora_targets: module names.

        Returns:
            The adapted projections, in the order in which the blocks have them.

        Raises:
            ConfigError: there is no target, or one matches nothing in any block.

        >>> [p.name for p in PRESETS["gpt2"].lora_projections(["c_proj"])]
        ['attn.c_proj', 'mlp.c_proj']
        """
        targets = tuple(lora_targets)
        if not targets:
            raise ConfigError("method.lora.targets is empty; name at least one module, such as 'q_proj'")
        kinds = dict.fromkeys(self.blocks)
        every = [p for block in kinds for p in block.projections]
        names = {end for p in every for end in (p.name, p.name.rpartition(".")[2])}
        for target in targets:
            if target != ALL_LINEAR and not any(named(p.name, [target]) for p in every):
                raise ConfigError(
                    f"method.lora.targets has {target!r}, which is no linear module of a {self.family} block; "
                    + nearest(target, names)
                )
        return tuple(dict.fromkeys(p for block in kinds for p in block.lora_projections(targets)))


def is_written_down(config: Mapping[str, object]) -> bool:
    """Whether `Architecture.from_config` has a formula for a config. Raises ModelError if the config says no type."""
    reader = ConfigReader(config)
    return reader.family in WRITTEN_DOWN and reader.unknown_pattern() is None


def _gpt2(config: ConfigReader) -> Architecture:
    """Pre-norm blocks with learned positions and one fused query-key-value matrix (Conv1D)."""
    d = config.positive_int("n_embd")
    heads = config.positive_int("n_head")
    inner = config.positive_int("n_inner", default=4 * d)
    config.require_multiple("n_embd", d, "n_head", heads)
    fused = Projection("attn.c_attn", d, 3 * d, bias=True)
    block = serial_block(
        BlockSizes(d, heads, heads, d // heads, inner, layer_norm=True),
        query=fused,
        key=fused,
        value=fused,
        attention_end=Projection("attn.c_proj", d, d, bias=True),
        mlp_start=((Projection("mlp.c_fc", d, inner, bias=True), 4),),
        mlp_end=Projection("mlp.c_proj", inner, d, bias=True),
    )
    vocab = config.positive_int("vocab_size")
    return Architecture(
        family="gpt2",
        hidden_size=d,
        vocab_size=vocab,
        embedding_values=(vocab + config.positive_int("n_positions")) * d,
        head_values=vocab * d,
        tied_embeddings=config.flag("tie_word_embeddings", default=True),
        final_norm_values=2 * d,
        final_norm_statistics=2,
        passing_values_per_token=3 * max(inner, d) + d,
        default_lora_targets=("c_attn",),
        blocks=(block,) * config.positive_int("n_layer"),
    )


def _llama_like(config: ConfigReader) -> Architecture:
    """Pre-norm blocks with rotary positions, grouped-query attention and a gated MLP."""
    family = config.family
    d = config.positive_int("hidden_size")
    heads = config.positive_int("num_attention_heads")
    # Absent, it means one per query head in a Llama; other families fall back on fixed numbers that no release uses.
    kv_heads = config.positive_int("num_key_value_heads", default=heads if family == "llama" else None)
    config.require_multiple("num_attention_heads", heads, "num_key_value_heads", kv_heads)
    if family not in ("qwen3", "gemma3_text") and config.config.get("head_dim") is None:
        config.require_multiple("hidden_size", d, "num_attention_heads", heads)
        head_dim = d // heads
    else:
        head_dim = config.positive_int("head_dim")
    inner = config.positive_int("intermediate_size")
    # Qwen 2 always has biases on q, k, v and never elsewhere; Mistral has none; the others say.
    says = family in ("llama", "qwen3", "smollm3", "gemma3_text")
    attention_bias = says and config.flag("attention_bias", default=False)
    qkv_bias = attention_bias or family == "qwen2"
    mlp_bias = family in ("llama", "smollm3") and config.flag("mlp_bias", default=False)
    gemma, qk_norm = family == "gemma3_text", family in ("qwen3", "gemma3_text")
    sizes = BlockSizes(d, heads, kv_heads, head_dim, inner, qk_norm=qk_norm, post_norm=gemma)
    block = serial_block(
        sizes,
        query=Projection("self_attn.q_proj", d, sizes.query_width, qkv_bias),
        key=Projection("self_attn.k_proj", d, sizes.kv_width, qkv_bias),
        value=Projection("self_attn.v_proj", d, sizes.kv_width, qkv_bias),
        attention_end=Projection("self_attn.o_proj", sizes.query_width, d, attention_bias),
        mlp_start=(
            (Projection("mlp.gate_proj", d, inner, mlp_bias), 2),
            (Projection("mlp.up_proj", d, inner, mlp_bias), 1),
        ),
        mlp_end=Projection("mlp.down_proj", inner, d, mlp_bias),
    )
    vocab = config.positive_int("vocab_size")
    return Architecture(
        family=family,
        hidden_size=d,
        vocab_size=vocab,
        embedding_values=vocab * d,
        head_values=vocab * d,
        tied_embeddings=config.flag("tie_word_embeddings", default=family in ("gemma3_text", "smollm3")),
        final_norm_values=d,
        final_norm_statistics=1,
        passing_values_per_token=3 * max(inner, sizes.query_width) + d + 2 * head_dim,
        default_lora_targets=("q_proj", "v_proj"),
        blocks=(block,) * config.positive_int("num_hidden_layers"),
    )


def _bert(config: ConfigReader) -> Architecture:
    """Post-norm blocks with learned positions, separate query, key and value, and a plain GELU MLP."""
    d = config.positive_int("hidden_size")
    heads = config.positive_int("num_attention_heads")
    inner = config.positive_int("intermediate_size")
    config.require_multiple("hidden_size", d, "num_attention_heads", heads)
    query, key, value = (Projection(f"attention.self.{name}", d, d, bias=True) for name in ("query", "key", "value"))
    block = serial_block(
        BlockSizes(d, heads, heads, d // heads, inner, layer_norm=True, pre_norm=False, post_norm=True),
        query,
        key,
        value,
        attention_end=Projection("attention.output.dense", d, d, bias=True),
        mlp_start=((Projection("intermediate.dense", d, inner, bias=True), 1),),
        mlp_end=Projection("output.dense", inner, d, bias=True),
    )
    vocab, positions = config.positive_int("vocab_size"), config.positive_int("max_position_embeddings", default=512)
    return Architecture(
        family=config.family,
        hidden_size=d,
        vocab_size=vocab,
        embedding_values=(vocab + positions + config.positive_int("type_vocab_size", default=2) + 2) * d,
        head_values=0,
        tied_embeddings=True,
        final_norm_values=0,
        final_norm_statistics=0,
        passing_values_per_token=3 * max(inner, d) + d,
        default_lora_targets=("query", "value"),
        blocks=(block,) * config.positive_int("num_hidden_layers"),
    )


PRESET_CONFIGS: dict[str, dict[str, object]] = json.loads(Path(__file__).with_name("presets.json").read_text("utf-8"))
"""Published configs of models known by name, in Hugging Face keys."""
PRESETS = {name: Architecture.from_config(config) for name, config in PRESET_CONFIGS.items()}
"""Architectures known by name, so that planning needs neither a download nor torch."""
