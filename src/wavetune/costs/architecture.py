"""What a model looks like to a cost model: widths, projections and sizes, read from its Hugging Face config."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from wavetune.costs.hf_config import ConfigReader
from wavetune.costs.presets import PRESET_CONFIGS
from wavetune.errors import ConfigError, ModelError, nearest

Site = Literal["attention_in", "attention_out", "mlp_in", "mlp_hidden"]

ENCODERS = ("bert", "roberta", "xlm-roberta")
LLAMA_LIKE = ("llama", "mistral", "qwen2", "qwen3", "smollm3", "gemma3_text")


@dataclass(frozen=True)
class Projection:
    """One weight matrix of a block, `in_features` to `out_features`.

    Args:
        name: its path inside the block, such as "self_attn.q_proj".
        in_features: width of what it reads.
        out_features: width of what it yields.
        reads: the place in the block whose activation it reads.
        feeds: which of query "q", key "k" and value "v" it yields; "" for the others.
        bias: whether it has a bias of `out_features` values.
    """

    name: str
    in_features: int
    out_features: int
    reads: Site
    feeds: str = ""
    bias: bool = False

    @property
    def num_values(self) -> int:
        """Weights and biases (values)."""
        return self.in_features * self.out_features + self.out_features * self.bias


@dataclass(frozen=True)
class Architecture:
    """A decoder of `num_layers` equal pre-norm blocks, an embedding below them, a norm and a head above.

    Or an encoder, whose blocks are post-norm and attend in both directions, with nothing above them.

    Args:
        family: the `model_type` of its config.
        num_layers: blocks, L.
        hidden_size: width of the residual stream, D.
        num_heads: query heads.
        num_kv_heads: key and value heads, which divide the query heads.
        head_dim: width of one head.
        intermediate_size: width inside the MLP.
        vocab_size: rows of the embedding and of the head.
        num_positions: rows of the learned position table; 0 where positions are rotary.
        tied_embeddings: whether the head is the embedding's matrix.
        qk_norm: whether queries and keys are normalised per head.
        post_norm: whether attention and MLP outputs are normalised too (Gemma 3).
        projections: the weight matrices of one block.
        default_lora_targets: the modules PEFT adapts in this family unless told otherwise.
        num_token_types: rows of the table of token types (BERT).
    """

    family: str
    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    num_positions: int
    tied_embeddings: bool
    qk_norm: bool
    post_norm: bool
    projections: tuple[Projection, ...]
    default_lora_targets: tuple[str, ...]
    num_token_types: int = 0

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> Architecture:
        """Architecture described by a Hugging Face config.

        Args:
            config: the parsed `config.json`, or `PretrainedConfig.to_dict()`.

        Returns:
            The architecture; per-layer attention windows are accepted and not told apart.

        Raises:
            ModelError: a needed key is missing or malformed, or names a pattern without a cost model.

        >>> Architecture.from_config(PRESET_CONFIGS["gpt2"]).num_parameters
        124439808
        """
        reader = ConfigReader(config)
        reader.refuse_unknown_patterns()
        if reader.family == "gpt2":
            return _gpt2(reader)
        if reader.family in LLAMA_LIKE:
            return _llama_like(reader)
        if reader.family in ENCODERS:
            return _bert(reader)
        raise ModelError(
            f"the model config's 'model_type' is {reader.family!r}, which has no cost model; "
            + nearest(reader.family, ("gpt2", *LLAMA_LIKE, *ENCODERS))
        )

    @property
    def is_encoder(self) -> bool:
        """Whether blocks are BERT's: post-norm, attending in both directions, without norm and head above."""
        return self.family in ENCODERS

    @property
    def has_layer_norm(self) -> bool:
        """Whether norms are LayerNorm (scale and shift) and the MLP is a plain GELU one, as in GPT-2 and BERT."""
        return self.family == "gpt2" or self.is_encoder

    @property
    def query_width(self) -> int:
        """Values of all query heads of one token."""
        return self.num_heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Values of all key heads (as many as of all value heads) of one token."""
        return self.num_kv_heads * self.head_dim

    @property
    def block_values(self) -> int:
        """Parameters of one block (values)."""
        norms = 4 if self.has_layer_norm or self.post_norm else 2
        norm_values = norms * self.hidden_size + 2 * self.head_dim * self.qk_norm
        return norm_values + sum(projection.num_values for projection in self.projections)

    @property
    def embedding_values(self) -> int:
        """Parameters of the tables of tokens, learned positions and token types, and of an encoder's norm (values)."""
        rows = self.vocab_size + self.num_positions + self.num_token_types + 2 * self.is_encoder
        return rows * self.hidden_size

    @property
    def head_values(self) -> int:
        """Entries of the head's matrix, whether or not it is the embedding's; 0 for an encoder (values)."""
        return 0 if self.is_encoder else self.vocab_size * self.hidden_size

    @property
    def final_norm_values(self) -> int:
        """Parameters of the norm before the head (values)."""
        return 0 if self.is_encoder else self.hidden_size * (2 if self.has_layer_norm else 1)

    @property
    def num_parameters(self) -> int:
        """Parameters of the whole model, a tied head counted once, an encoder's pooler not at all (values).

        >>> PRESETS["smollm2-135m"].num_parameters
        134515008
        """
        head = 0 if self.tied_embeddings else self.head_values
        return self.embedding_values + self.num_layers * self.block_values + self.final_norm_values + head

    def lora_projections(self, lora_targets: Iterable[str]) -> tuple[Projection, ...]:
        """Projections of a block that PEFT adapts for a list of target modules.

        As in PEFT, a target names a module or the end of its dotted path: GPT-2's "c_proj" is both "attn.c_proj"
        and "mlp.c_proj".

        Args:
            lora_targets: module names.

        Returns:
            The adapted projections, in the order of `projections`.

        Raises:
            ConfigError: there is no target, or one matches nothing in a block.

        >>> [p.name for p in PRESETS["gpt2"].lora_projections(["c_proj"])]
        ['attn.c_proj', 'mlp.c_proj']
        """
        targets = tuple(lora_targets)
        if not targets:
            raise ConfigError("lora_targets is empty; name at least one module, such as 'q_proj'")
        names = {name for p in self.projections for name in (p.name, p.name.rpartition(".")[2])}
        for target in targets:
            if target not in names:
                raise ConfigError(
                    f"lora_targets has {target!r}, which is no linear module of a {self.family} block; "
                    + nearest(target, names)
                )
        return tuple(p for p in self.projections if p.name in targets or p.name.rpartition(".")[2] in targets)


def _gpt2(config: ConfigReader) -> Architecture:
    """Pre-norm blocks with learned positions and one fused query-key-value matrix (Conv1D)."""
    d = config.positive_int("n_embd")
    heads = config.positive_int("n_head")
    inner = config.positive_int("n_inner", default=4 * d)
    config.require_multiple("n_embd", d, "n_head", heads)
    return Architecture(
        family="gpt2",
        num_layers=config.positive_int("n_layer"),
        hidden_size=d,
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=d // heads,
        intermediate_size=inner,
        vocab_size=config.positive_int("vocab_size"),
        num_positions=config.positive_int("n_positions"),
        tied_embeddings=config.flag("tie_word_embeddings", default=True),
        qk_norm=False,
        post_norm=False,
        projections=(
            Projection("attn.c_attn", d, 3 * d, "attention_in", feeds="qkv", bias=True),
            Projection("attn.c_proj", d, d, "attention_out", bias=True),
            Projection("mlp.c_fc", d, inner, "mlp_in", bias=True),
            Projection("mlp.c_proj", inner, d, "mlp_hidden", bias=True),
        ),
        default_lora_targets=("c_attn",),
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
    return Architecture(
        family=family,
        num_layers=config.positive_int("num_hidden_layers"),
        hidden_size=d,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=inner,
        vocab_size=config.positive_int("vocab_size"),
        num_positions=0,
        tied_embeddings=config.flag("tie_word_embeddings", default=family in ("gemma3_text", "smollm3")),
        qk_norm=family in ("qwen3", "gemma3_text"),
        post_norm=family == "gemma3_text",
        projections=(
            Projection("self_attn.q_proj", d, heads * head_dim, "attention_in", feeds="q", bias=qkv_bias),
            Projection("self_attn.k_proj", d, kv_heads * head_dim, "attention_in", feeds="k", bias=qkv_bias),
            Projection("self_attn.v_proj", d, kv_heads * head_dim, "attention_in", feeds="v", bias=qkv_bias),
            Projection("self_attn.o_proj", heads * head_dim, d, "attention_out", bias=attention_bias),
            Projection("mlp.gate_proj", d, inner, "mlp_in", bias=mlp_bias),
            Projection("mlp.up_proj", d, inner, "mlp_in", bias=mlp_bias),
            Projection("mlp.down_proj", inner, d, "mlp_hidden", bias=mlp_bias),
        ),
        default_lora_targets=("q_proj", "v_proj"),
    )


def _bert(config: ConfigReader) -> Architecture:
    """Post-norm blocks with learned positions, separate query, key and value, and a plain GELU MLP."""
    if config.flag("is_decoder", default=False):
        raise ModelError("the model config sets 'is_decoder': a BERT that decodes has no cost model")
    d = config.positive_int("hidden_size")
    heads = config.positive_int("num_attention_heads")
    inner = config.positive_int("intermediate_size")
    config.require_multiple("hidden_size", d, "num_attention_heads", heads)
    return Architecture(
        family=config.family,
        num_layers=config.positive_int("num_hidden_layers"),
        hidden_size=d,
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=d // heads,
        intermediate_size=inner,
        vocab_size=config.positive_int("vocab_size"),
        num_positions=config.positive_int("max_position_embeddings", default=512),
        tied_embeddings=True,
        qk_norm=False,
        post_norm=False,
        projections=(
            Projection("attention.self.query", d, d, "attention_in", feeds="q", bias=True),
            Projection("attention.self.key", d, d, "attention_in", feeds="k", bias=True),
            Projection("attention.self.value", d, d, "attention_in", feeds="v", bias=True),
            Projection("attention.output.dense", d, d, "attention_out", bias=True),
            Projection("intermediate.dense", d, inner, "mlp_in", bias=True),
            Projection("output.dense", inner, d, "mlp_hidden", bias=True),
        ),
        default_lora_targets=("query", "value"),
        num_token_types=config.positive_int("type_vocab_size", default=2),
    )


PRESETS: dict[str, Architecture] = {name: Architecture.from_config(c) for name, c in PRESET_CONFIGS.items()}
"""Architectures known by name, so that planning needs neither a download nor torch."""
