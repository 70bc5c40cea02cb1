"""Sizes of models known by name, from their published configs, in Hugging Face keys."""


def _llama_config(layers: int, width: int, inner: int, heads: int, kv_heads: int, vocab: int) -> dict[str, object]:
    """A Hugging Face config of a Llama with a tied head."""
    return {
        "model_type": "llama",
        "num_hidden_layers": layers,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
        "tie_word_embeddings": True,
    }


def _gpt2_config(layers: int, width: int, heads: int) -> dict[str, object]:
    """A Hugging Face config of a GPT-2."""
    sizes = {"n_layer": layers, "n_embd": width, "n_head": heads, "n_positions": 1024, "vocab_size": 50257}
    return {"model_type": "gpt2", **sizes}


def _bert_config(layers: int, width: int, inner: int, heads: int, vocab: int, positions: int) -> dict[str, object]:
    """A Hugging Face config of a BERT."""
    return {
        "model_type": "bert",
        "num_hidden_layers": layers,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_attention_heads": heads,
        "vocab_size": vocab,
        "max_position_embeddings": positions,
        "type_vocab_size": 2,
    }


PRESET_CONFIGS: dict[str, dict[str, object]] = {
    "tiny": _llama_config(layers=4, width=64, inner=128, heads=4, kv_heads=2, vocab=512),
    "tiny-bert": _bert_config(layers=4, width=64, inner=128, heads=4, vocab=512, positions=512),
    "gpt2": _gpt2_config(layers=12, width=768, heads=12),
    "gpt2-medium": _gpt2_config(layers=24, width=1024, heads=16),
    "smollm2-135m": _llama_config(layers=30, width=576, inner=1536, heads=9, kv_heads=3, vocab=49152),
    "qwen2.5-0.5b": _llama_config(layers=24, width=896, inner=4864, heads=14, kv_heads=2, vocab=151936)
    | {"model_type": "qwen2"},
    "llama-3.2-1b": _llama_config(layers=16, width=2048, inner=8192, heads=32, kv_heads=8, vocab=128256),
    "minilm-l6": _bert_config(layers=6, width=384, inner=1536, heads=12, vocab=30522, positions=512),
    "roberta-base": _bert_config(layers=12, width=768, inner=3072, heads=12, vocab=50265, positions=514)
    | {"model_type": "roberta", "type_vocab_size": 1},
}
