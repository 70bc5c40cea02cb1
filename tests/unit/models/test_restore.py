"""A client's model restored from its adapter folder gives what the stacked engine gives."""

import json

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from helpers.adapters import pair_of
from helpers.training import folder_of
from wavetune.errors import ModelError, RunFolderError
from wavetune.federation.adapters.bottleneck import Bottleneck
from wavetune.models.adapter_folder import ABOUT, WEIGHTS, save_adapter_folder
from wavetune.models.backbone import load_backbone, load_stock_model, load_tokenizer
from wavetune.models.classifier import head_site, stacked_head
from wavetune.models.generate import generate, load_for_generation
from wavetune.models.lora import new_bank
from wavetune.models.ragged import ragged_layout
from wavetune.models.restore import load_adapted
from wavetune.recipe import save, with_settings
from wavetune.recipes import get
from wavetune.runtimes.answer import answer

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

TARGETS = {"tiny": ("q_proj", "down_proj"), "tiny-gpt2": ("c_attn", "c_proj"), "tiny-bert": ("query", "dense")}
BOTH = Bottleneck(width=6, places=("attention", "feed_forward"))
LENGTHS = [9, 4, 12]
ALL = ("lora", "bottleneck", "head")


def trained(model, kinds=ALL, outputs=3, local=True):
    """Backbone and bank of three clients with all factors alive."""
    bottleneck = BOTH if "bottleneck" in kinds else None
    targets = TARGETS[model] if "lora" in kinds else ()
    backbone = load_backbone(
        folder_of(model),
        targets,
        adapters=(bottleneck,) if bottleneck else (),
        outputs=outputs if "head" in kinds else None,
    )
    bank = new_bank(backbone.sites, np.full((4, 3), local), (3, 2, 1), 3, alpha=6.0, seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in bank.parameters(local):
            p.copy_(torch.randn(p.shape, generator=generator) * 0.2)
    return backbone, bank


def exported(folder, model, backbone, bank, client, **options):
    own = {name: pair_of(pair["A"][client], pair["B"][client]) for name, pair in bank.local.items()}
    save_adapter_folder(folder, own, backbone, bank.scale, str(folder_of(model)), **options)
    return load_adapted(folder_of(model), folder)


def samples():
    return [torch.randint(3, 250, (n,), generator=torch.Generator().manual_seed(n)) for n in LENGTHS]


def hidden_of(backbone, bank, client):
    return backbone.forward(torch.cat(samples()), ragged_layout(LENGTHS), bank, [client], [sum(LENGTHS)])


@pytest.mark.parametrize("kinds", [("lora",), ("bottleneck",), ("lora", "bottleneck")], ids="+".join)
@pytest.mark.parametrize("model", ["tiny", "tiny-gpt2"])
@torch.no_grad()
def test_restored_decoder_gives_the_logits_of_the_stacked_one(model, kinds, tmp_path):
    backbone, bank = trained(model, kinds)
    for client in (0, 2):
        restored = exported(tmp_path / "a", model, backbone, bank, client)
        states = backbone.final_norm(hidden_of(backbone, bank, client)).split(LENGTHS)
        for ids, state in zip(samples(), states, strict=True):
            logits = restored(input_ids=ids[None]).logits[0]
            torch.testing.assert_close(logits, backbone.head.logits(state)[0], rtol=1e-4, atol=1e-4)
            assert not torch.allclose(logits, load_stock_model(folder_of(model))(ids[None]).logits[0], atol=0.1)


@pytest.mark.parametrize("pooling", ["mean", "first", "last", None])
@pytest.mark.parametrize("model", ["tiny-bert", "tiny"])
@torch.no_grad()
def test_restored_classifier_gives_the_logits_of_the_stacked_one_on_padded_batches(model, pooling, tmp_path):
    backbone, bank = trained(model)
    restored = exported(tmp_path / "a", model, backbone, bank, 1, labels=("no", "yes", "so"), pooling=pooling)
    pooled = backbone.pooled(hidden_of(backbone, bank, 1), LENGTHS, pooling)
    wanted = stacked_head(pooled, bank, bank.segments(head_site(bank).layer, [1], [3]))
    ids = torch.nn.utils.rnn.pad_sequence(samples(), batch_first=True)
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    torch.testing.assert_close(restored(ids, mask.long()), wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(restored(samples()[1][None]), wanted[1:2], rtol=1e-4, atol=1e-4)
    assert restored.labels == ("no", "yes", "so")
    assert not restored.training


def test_restored_model_generates_with_its_cache_what_it_gives_without(tmp_path):
    backbone, bank = trained("tiny", ("lora", "bottleneck"))
    exported(tmp_path / "a", "tiny", backbone, bank, 0)
    restored, tokenizer = load_for_generation(folder_of("tiny"), tmp_path / "a"), load_tokenizer(folder_of("tiny"))
    ids = [5, 6, 7]
    for _ in range(6):
        ids.append(int(restored(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    assert generate(restored, tokenizer, [[5, 6, 7]], 6) == [
        tokenizer.decode(ids[3:], skip_special_tokens=True).strip()
    ]


def test_the_lora_part_loads_in_stock_peft_and_shared_adapters_need_none(tmp_path):
    backbone, bank = trained("tiny-bert")
    exported(tmp_path / "a", "tiny-bert", backbone, bank, 0)
    peft = PeftModel.from_pretrained(load_stock_model(folder_of("tiny-bert")), str(tmp_path / "a"))
    assert peft.peft_config["default"].task_type == "FEATURE_EXTRACTION"
    ids = samples()[0]
    lora_alone = backbone.forward(ids, ragged_layout([len(ids)]), bank.only(("lora",)), [0], [len(ids)])
    torch.testing.assert_close(peft(ids[None]).last_hidden_state[0], lora_alone, rtol=1e-4, atol=1e-4)
    shared = bank.only(("bottleneck", "head"))
    exported(tmp_path / "a", "tiny-bert", backbone, shared, 0)
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [ABOUT, WEIGHTS]
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_folders_that_cannot_be_restored_are_refused_in_a_sentence(tmp_path):
    backbone, bank = trained("tiny")
    exported(tmp_path / "a", "tiny", backbone, bank, 0)
    with pytest.raises(ModelError, match="holds no adapters"):
        load_adapted(folder_of("tiny"), tmp_path)
    exported(tmp_path / "b", "tiny", backbone, bank.only(("bottleneck",)), 0)
    with pytest.raises(ModelError, match="do not fit the model"):
        load_adapted(folder_of("tiny-gpt2"), tmp_path / "b")
    about = json.loads((tmp_path / "b" / ABOUT).read_text())
    (tmp_path / "b" / ABOUT).write_text(json.dumps(about | {"format": 2}))
    with pytest.raises(ModelError, match="has format 2; this wavetune reads format 1"):
        load_adapted(folder_of("tiny"), tmp_path / "b")
    (tmp_path / "b" / ABOUT).write_text("{}")
    with pytest.raises(ModelError, match="cannot read the adapters"):
        load_adapted(folder_of("tiny"), tmp_path / "b")
    (tmp_path / "a" / WEIGHTS).write_bytes(b"\x08\0\0\0\0\0\0\0notjson!")
    with pytest.raises(ModelError, match="cannot read the adapters"):
        load_adapted(folder_of("tiny"), tmp_path / "a")


def test_generate_answers_a_classifiers_prompt_with_its_classes(tmp_path):
    backbone, bank = trained("tiny-bert")
    settings = ('world.model="tiny-bert"', "world.data.template.kind=class", "world.data.max_tokens=16")
    save(with_settings(get("fedavg_lora"), settings), tmp_path / "recipe.json")
    restored = exported(tmp_path / "adapters" / "client-01", "tiny-bert", backbone, bank, 1, labels=("a", "b", "c"))
    found = answer(tmp_path, "a long text, cut at sixteen tokens", 1, False, 5, 0.0, 0)
    ids = load_tokenizer(folder_of("tiny-bert"))("a long text, c").input_ids
    chances = restored(torch.tensor([ids])).softmax(-1)[0].tolist()
    assert len(ids) == 16
    ranked = sorted(zip(chances, "abc", strict=True), reverse=True)
    assert found == ", ".join(f"{label} {chance:.3f}" for chance, label in ranked)
    with pytest.raises(RunFolderError, match="leave out --base"):
        answer(tmp_path, "text", None, True, 5, 0.0, 0)
    with pytest.raises(RunFolderError, match="no adapter global: there are client-01"):
        answer(tmp_path, "text", None, False, 5, 0.0, 0)


def test_an_adapter_that_lacks_a_factor_is_refused_and_an_unknown_setting_of_peft_left_out(tmp_path):
    backbone, bank = trained("tiny")
    exported(tmp_path / "a", "tiny", backbone, bank, 0)
    config, weights = (tmp_path / "a" / f"adapter_{name}" for name in ("config.json", "model.safetensors"))
    config.write_text(json.dumps(json.loads(config.read_text()) | {"of_a_later_version": 1, "loftq_config": {"a": 1}}))
    load_adapted(folder_of("tiny"), tmp_path / "a")
    kept = load_file(weights)
    kept.pop(min(name for name in kept if "lora_A" in name))
    save_file(kept, weights)
    with pytest.raises(ModelError, match=r"cannot load the adapter .*missing adapter keys"):
        load_adapted(folder_of("tiny"), tmp_path / "a")


@pytest.mark.parametrize(
    ("peft_type", "name", "value"),
    [
        ("LORA", "r", 10**12),
        ("LORA", "rank_pattern", {"q_proj": 10**12}),
        ("PROMPT_TUNING", "num_virtual_tokens", 10**12),
        ("PREFIX_TUNING", "num_virtual_tokens", 10**12),
        ("P_TUNING", "encoder_hidden_size", 10**12),
    ],
)
def test_adapters_whose_config_asks_for_more_than_their_file_holds_are_refused(tmp_path, peft_type, name, value):
    """PEFT makes room for what the config says before it opens the file."""
    layer = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    lora = {layer.format(name): torch.zeros(shape) for name, shape in (("A", (4, 32)), ("B", (32, 4)))}
    prompt = {"prompt_embeddings": torch.zeros(4, 256 if peft_type == "PREFIX_TUNING" else 32)}
    save_file(lora if peft_type == "LORA" else prompt, tmp_path / "adapter_model.safetensors")
    config = {"peft_type": peft_type, "task_type": "CAUSAL_LM", "num_virtual_tokens": 4, "token_dim": 32}
    config = {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"]} if peft_type == "LORA" else config
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"num_layers": 4, name: value}))
    with pytest.raises(ModelError, match=f"its config has {name}.* = 1000000000000, and its file holds no more than"):
        load_adapted(folder_of("tiny"), tmp_path)


def test_a_rank_above_the_width_of_its_maps_is_loaded(tmp_path):
    backbone = load_backbone(folder_of("tiny"), ("q_proj",))
    rank = backbone.width + 3
    bank = new_bank(backbone.sites, np.full((backbone.num_layers, 1), True), (rank,), rank, alpha=6.0, seed=0)
    model = exported(tmp_path / "a", "tiny", backbone, bank, 0)
    assert {p.shape[0] for name, p in model.named_parameters() if "lora_A" in name} == {rank}
