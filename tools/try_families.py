"""Trains tiny random models of many families and holds their exported adapters against stock transformers and PEFT.

    python tools/try_families.py --all
    python tools/try_families.py --families gemma2,phi3,modernbert
    python tools/try_families.py exaone4 olmoe

Each family is built small from transformers' own config, trained for two rounds by `sflllm` and `fedavg_lora` (text by
decoders, classes by encoders), and its exported adapter, loaded by PEFT on the stock model with eager attention, must
give the validation loss that the run recorded. Any `model_type` of transformers can be named. Exits with 1 if a loss
differs or anything but a sentence comes back.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SMALLEST = ("phi3", "bert")
DECODERS = (
    "llama", "mistral", "qwen2", "qwen3", "smollm3", "gemma", "gemma2", "gemma3_text", "gpt2", "phi", "phi3", "olmo2",
    "glm4", "starcoder2", "granite", "stablelm", "cohere", "gpt_neox", "gptj", "gpt_neo", "falcon", "opt", "mixtral",
    "qwen3_moe", "bloom", "gpt_oss",
)  # fmt: skip
ENCODERS = ("bert", "roberta", "xlm-roberta", "distilbert", "modernbert", "deberta-v2", "electra")
RECIPES = ("sflllm", "fedavg_lora")
SEED, VOCABULARY, MAX_TOKENS, TOLERANCE = 0, 512, 512, 1e-4

SIZES = {
    64: "hidden_size n_embd d_model dim embedding_size word_embed_proj_dim",
    4: "num_hidden_layers n_layer n_layers num_layers num_attention_heads n_head n_heads num_heads attention_heads "
    "num_experts num_local_experts n_routed_experts moe_num_experts rotary_dim qk_rope_head_dim linear_num_key_heads "
    "linear_num_value_heads linear_num_heads index_n_heads swa_num_attention_heads mamba_d_state",
    2: "num_key_value_heads num_kv_heads num_experts_per_tok num_experts_per_token moe_topk moe_k top_k_experts "
    "type_vocab_size global_attn_every_n_layers zero_expert_num swa_num_key_value_heads o_groups",
    1: "n_group topk_group num_expert_group first_k_dense_replace n_shared_experts num_shared_experts",
    96: "intermediate_size n_inner ffn_dim d_ff hidden_dim ffn_hidden_size expert_ffn_hidden_size dff",
    16: "head_dim v_head_dim attention_head_dim kv_channels q_lora_rank kv_lora_rank o_lora_rank swa_head_dim "
    "state_size mamba_dt_rank block_size mamba_d_head",
    8: "qk_nope_head_dim linear_head_dim index_head_dim linear_key_head_dim linear_value_head_dim mamba_n_heads",
    24: "moe_intermediate_size shared_expert_intermediate_size shared_intermediate_size sliding_window local_attention "
    "window_size attention_window_size sliding_window_size attention_chunk_size",
    MAX_TOKENS: "max_position_embeddings n_positions n_ctx max_seq_len max_sequence_length",
    VOCABULARY: "vocab_size vocab_size_per_layer_input",
}
"""Names under which configs keep a size, and the small one that is taken."""
SMALL: dict[str, Any] = {
    **{name: size for size, names in SIZES.items() for name in names.split()},
    "initializer_range": 0.1,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "cls_token_id": 1,
    "sep_token_id": 2,
}
OWN: dict[str, dict[str, Any]] = {
    "gemma3_text": {"num_hidden_layers": 7},  # one full layer after five with windows
    "falcon_h1": {"mamba_d_ssm": 128, "mamba_d_head": 16, "mamba_n_heads": 8},
    "gemma3n_text": {
        "num_kv_shared_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "activation_sparsity_pattern": [0.0] * 4,
        "intermediate_size": [96] * 4,
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "mamba2": {"num_heads": 8, "head_dim": 16, "n_groups": 2},
    "zamba2": {"layer_types": ["mamba", "hybrid"] * 2, "layers_block_type": ["mamba", "hybrid"] * 2},
    "zaya": {"num_experts_per_tok": 1},
    "deberta-v2": {"relative_attention": True, "position_buckets": 16, "pos_att_type": ["p2c", "c2p"]},
}
"""What a family needs beside sizes."""


@dataclass(frozen=True)
class Result:
    """What came of one family and recipe: "right", "refused", "WRONG", "traceback" or "not built"."""

    family: str
    recipe: str
    outcome: str
    detail: str
    difference: float = 0.0

    @property
    def failed(self) -> bool:
        """Whether this may not happen."""
        return self.outcome in ("WRONG", "traceback")


def try_families(families: Iterable[str], folder: Path) -> Iterator[Result]:
    """What comes of each family and recipe; models and runs are written into the folder."""
    data = folder / "data"
    _write_data(data)
    for family in families:
        try:
            encoder = _write_model(family, folder / family)
        except Exception as error:  # whatever transformers raises where small sizes do not suit a family
            yield Result(family, "-", "not built", _first_line(error))
            continue
        for recipe in RECIPES:
            yield _try(family, recipe, encoder, folder, data)


def small_config(family: str) -> Any:
    """A config of the family in which every size that it has under a usual name is small."""
    from transformers import CONFIG_MAPPING

    if family not in CONFIG_MAPPING:
        raise ValueError(f"transformers knows no model_type {family!r}")
    return _shrunk(CONFIG_MAPPING[family], OWN.get(family, {}))


def _shrunk(kind: Any, own: Mapping[str, Any]) -> Any:
    known = kind().to_dict()
    sizes = {name: size for name, size in SMALL.items() if name in known}
    if "qk_rope_head_dim" in known:  # latent attention: the width of a head follows from others, no heads are shared
        sizes.pop("head_dim", None)
        sizes |= {"num_key_value_heads": sizes["num_attention_heads"]} if "num_key_value_heads" in known else {}
    parts = {name: _shrunk(part, {}) for name, part in kind.sub_configs.items() if getattr(part, "model_type", "")}
    return kind(**{**sizes, **parts, **own})


def _write_model(family: str, folder: Path) -> bool:
    """Write a random checkpoint of the family; returns whether it is an encoder."""
    import torch
    from transformers import AutoModel, AutoModelForCausalLM

    from wavetune.models.quiet import quiet
    from wavetune.models.structure import is_encoder
    from wavetune.models.tiny import byte_tokenizer

    config = small_config(family)
    encoder = is_encoder(config)
    torch.manual_seed(SEED)
    model = (AutoModel if encoder else AutoModelForCausalLM).from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():  # no norm or bias is an identity
            if parameter.dim() == 1 and parameter.is_floating_point():
                parameter.add_(0.1 * torch.randn_like(parameter))
    with quiet():
        model.save_pretrained(folder)
    byte_tokenizer(encoder).save_pretrained(folder)
    return encoder


def _write_data(folder: Path) -> None:
    folder.mkdir(parents=True)
    for part, count in (("train", 24), ("validation", 6)):
        pairs = [(f"{part} question {n}", "yes, of course " * (1 + n % 4)) for n in range(count)]
        text = [{"prompt": prompt, "completion": answer + str(n)} for n, (prompt, answer) in enumerate(pairs)]
        classes = [
            {"text": prompt + " " + answer, "label": ("good", "bad")[n % 2]} for n, (prompt, answer) in enumerate(pairs)
        ]
        for name, rows in (("text", text), ("classes", classes)):
            (folder / name).mkdir(exist_ok=True)
            (folder / name / f"{part}.jsonl").write_text(
                "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
            )


def _settings(encoder: bool, recipe: str, model: Path, data: Path) -> list[str]:
    settings = [
        f"world.model={json.dumps(str(model))}",
        f"world.data.source={json.dumps(str(data / ('classes' if encoder else 'text')))}",
        "world.data.train_samples=null",
        "world.data.validation_samples=6",
        "world.data.max_tokens=96",
        "world.data.batching.batch_size=4",
        "world.data.partition.kind=iid",
        "world.scenario.population.num_clients=2",
        "method.lora.rank=4",
        "method.optimiser.learning_rate=0.01",
        "run.rounds=2",
        "run.local_steps=2",
        "run.samples=0",
        "run.precision=fp32",
        "run.device=cpu",
    ]
    if recipe == "sflllm":
        settings.append("method.topology.cut=2")
    if encoder:
        settings += ["world.data.template.kind=class", 'method.sharing.shared=["lora", "head"]']
    return settings


def _try(family: str, recipe: str, encoder: bool, folder: Path, data: Path) -> Result:
    from wavetune import recipes
    from wavetune.errors import WavetuneError
    from wavetune.recipe import with_settings
    from wavetune.runtimes.inprocess import run

    out = folder / f"{family}-{recipe}"
    try:
        settings = _settings(encoder, recipe, folder / family, data)
        summary = run(with_settings(recipes.get(recipe), settings), out, Silent())
        if not isinstance(summary, dict):
            return Result(family, recipe, "refused", summary.reason)
        told = summary["validation_loss"]
        found = stock_losses(folder / family, out, encoder)
    except WavetuneError as refusal:
        outcome = "traceback" if "\n" in str(refusal) else "refused"
        return Result(family, recipe, outcome, str(refusal))
    except Exception:
        return Result(family, recipe, "traceback", traceback.format_exc())
    pairs = ((told["before"], found[0]), (told["after"], found[1]))[encoder:]  # a head's first weights are not exported
    worst = max(abs(mine - stock) for mine, stock in pairs)
    detail = ", ".join(f"{mine:.6f} (stock {stock:.6f})" for mine, stock in pairs)
    right = worst <= TOLERANCE and told["before"] != told["after"]
    return Result(family, recipe, "right" if right else "WRONG", detail, worst)


def stock_losses(model: Path, out: Path, encoder: bool) -> tuple[float, float]:
    """The run's validation loss by stock transformers and PEFT, row by row: of the base, and with the adapter."""
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

    from wavetune.data.settings import prepare
    from wavetune.models.quiet import quiet
    from wavetune.recipe import load

    recipe = load(out / "recipe.json")
    clients = recipe.world.scenario.population.num_clients
    rows = prepare(recipe.world.data, AutoTokenizer.from_pretrained(model), clients, recipe.run.seed).validation
    adapter = out / "adapters/global"
    heads = load_file(adapter / "wavetune_adapter.safetensors") if encoder else {}

    @torch.no_grad()
    def loss(stock: Any, trained: bool) -> float:
        total = count = 0.0
        for i in range(len(rows)):
            ids, start = torch.tensor(rows.row(i).astype("int64"))[None], int(rows.label_start[i])
            if encoder:
                weight, bias = (heads[f"classifier.{name}"] * trained for name in ("weight", "bias"))
                scores = stock(input_ids=ids).last_hidden_state[0].mean(0, keepdim=True) @ weight.t() + bias
                wanted = torch.tensor([int(rows.classes[i])])
            else:
                scores, wanted = stock(input_ids=ids, use_cache=False).logits[0, start - 1 : -1].float(), ids[0, start:]
            total += float(torch.nn.functional.cross_entropy(scores, wanted, reduction="sum"))
            count += len(wanted)
        return total / count

    kind: Any = AutoModel if encoder else AutoModelForCausalLM
    with quiet():
        stock = kind.from_pretrained(model, dtype=torch.float32, attn_implementation="eager").eval()
    return loss(stock, False), loss(PeftModel.from_pretrained(stock, str(adapter)).eval(), True)


class Silent:
    """An observer of a run that keeps quiet."""

    def __getattr__(self, _name: str) -> Any:
        return lambda *_args, **_kwargs: None


def table(results: Sequence[Result]) -> str:
    """What came of all, a line each, and the worst difference."""
    lines = [f"{r.family:20} {r.recipe:13} {r.outcome:10} {_shown(r)}" for r in results]
    right = [r for r in results if r.outcome == "right"]
    counts = ", ".join(
        f"{sum(r.outcome == outcome for r in results)} {outcome}"
        for outcome in ("right", "refused", "not built", "WRONG", "traceback")
    )
    worst = max((r.difference for r in right), default=0.0)
    return "\n".join([*lines, f"{counts}; worst difference of those that are right {worst:.1e}"])


def _shown(result: Result) -> str:
    return f"{result.difference:.1e}  {result.detail}" if result.outcome in ("right", "WRONG") else result.detail


def _first_line(error: Exception) -> str:
    return " ".join((str(error) or type(error).__name__).split())[:200]


def main() -> int:
    """Try what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="families, by their model_type")
    parser.add_argument("--families", default="", help="the same, separated by commas")
    parser.add_argument("--all", action="store_true", help="all families that are listed here")
    arguments = parser.parse_args()
    named = [*arguments.names, *filter(None, arguments.families.split(","))]
    families = [*named, *((*DECODERS, *ENCODERS) if arguments.all else () if named else SMALLEST)]
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for result in try_families(dict.fromkeys(families), Path(folder)):
            results.append(result)
            print(f"{result.family} {result.recipe}: {result.outcome}", file=sys.stderr, flush=True)
    print(table(results))
    return int(any(result.failed for result in results))


if __name__ == "__main__":
    sys.exit(main())
