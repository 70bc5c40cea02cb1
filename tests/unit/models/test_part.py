import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.training import folder_of
from wavetune.errors import ModelError
from wavetune.models.backbone import load_backbone, ragged_layout
from wavetune.models.part import load_part

IDS, LENGTHS = torch.tensor([5, 9, 3, 7, 100, 42, 8]), [4, 3]


def hidden_states(backbone, ids=IDS, between=None, blocks=None):
    with torch.no_grad():
        return backbone.forward(ids, ragged_layout(LENGTHS), between=between, blocks=blocks)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("model", ["tiny", "tiny-gpt2"])
@pytest.mark.parametrize("cut", [1, 3])
def test_two_halves_one_after_the_other_are_the_whole_model_to_the_bit(model, cut, bf16):
    folder = folder_of(model)
    whole = load_backbone(folder, bf16=bf16)
    lower = load_part(folder, range(cut), head=False, bf16=bf16)
    upper = load_part(folder, range(cut, 4), head=True, bf16=bf16)
    crossing = hidden_states(lower)

    def receive(done, hidden):
        return crossing if done == cut else hidden

    wanted = hidden_states(whole)
    assert not torch.equal(crossing, wanted)
    assert torch.equal(hidden_states(upper, torch.zeros_like(IDS), receive), wanted)
    assert torch.equal(hidden_states(whole, torch.zeros_like(IDS), receive, range(cut, 4)), wanted)
    assert torch.equal(hidden_states(whole), wanted)
    index, weight = torch.arange(7), torch.ones(7)
    assert torch.equal(
        upper.labelled_loss(wanted, index, IDS, weight)[1], whole.labelled_loss(wanted, index, IDS, weight)[1]
    )


def test_a_part_has_the_sites_of_its_blocks_under_the_names_of_the_whole_model():
    whole = load_backbone(folder_of("tiny")).sites
    assert load_part(folder_of("tiny"), range(1, 3), head=False).sites == tuple(s for s in whole if 1 <= s.layer < 3)


def test_only_its_own_blocks_are_read(tmp_path):
    """The files lack everything else."""
    source = folder_of("tiny")
    weights = load_file(source / "model.safetensors")
    kept = {n: w for n, w in weights.items() if ".layers." not in n or ".layers.0." in n or ".layers.1." in n}
    assert len(kept) < len(weights)
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_bytes((source / "config.json").read_bytes())
    part = load_part(tmp_path, range(2), head=False)
    assert torch.equal(hidden_states(part), hidden_states(load_part(source, range(2), head=False)))
    with pytest.raises(ModelError, match=r"holds no weights for model\.layers\.2"):
        load_part(tmp_path, range(3), head=False)


def test_shards_and_weights_without_the_prefix_are_found(tmp_path):
    source = folder_of("tiny-gpt2")
    weights = load_file(source / "model.safetensors")
    renamed = {n.removeprefix("transformer."): w for n, w in weights.items()}
    places = {n: f"part-{i % 2}.safetensors" for i, n in enumerate(renamed)}
    for file in set(places.values()):
        save_file({n: w for n, w in renamed.items() if places[n] == file}, tmp_path / file)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    (tmp_path / "config.json").write_bytes((source / "config.json").read_bytes())
    whole = load_backbone(source)
    assert torch.equal(hidden_states(load_part(tmp_path, range(4), head=True)), hidden_states(whole))


def test_a_head_of_its_own_weight_stays_away(tmp_path):
    source = folder_of("tiny")
    config = json.loads((source / "config.json").read_text()) | {"tie_word_embeddings": False}
    (tmp_path / "config.json").write_text(json.dumps(config))
    weights = load_file(source / "model.safetensors")
    save_file(weights | {"lm_head.weight": weights["model.embed_tokens.weight"] * 2}, tmp_path / "model.safetensors")
    assert load_part(tmp_path, range(2), head=False).head.weight.numel() == 0
    assert torch.equal(load_part(tmp_path, range(2), head=True).head.weight, weights["model.embed_tokens.weight"] * 2)
