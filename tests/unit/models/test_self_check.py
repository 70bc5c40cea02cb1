import json
from copy import deepcopy

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig

from helpers.decoders import SMALL, decoder
from wavetune.errors import ModelError
from wavetune.models import ragged, self_check
from wavetune.models.backbone import prepare_backbone
from wavetune.models.part import load_part
from wavetune.models.ragged import ATTENTION, ragged_layout
from wavetune.models.structure import Checked


@pytest.fixture(autouse=True)
def nothing_checked_yet(monkeypatch, tmp_path):
    monkeypatch.setattr(self_check, "_CHECKED", {})
    monkeypatch.setenv("WAVETUNE_CACHE", str(tmp_path))


def llama(**more):
    torch.manual_seed(0)
    config = LlamaConfig(**(SMALL | {"initializer_range": 0.2} | more))
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()


def test_a_model_that_ends_a_text_with_any_of_several_tokens_is_checked():
    assert prepare_backbone(llama(eos_token_id=[2, 3]), None).way.packed


def wrong_attention(*args, **named):
    output, weights = ragged._attention_interface(*args, **named)
    return output * 1.01, weights


def test_an_attention_that_is_wrong_is_not_used(monkeypatch):
    monkeypatch.setitem(ragged.ALL_ATTENTION_FUNCTIONS, ATTENTION, wrong_attention)
    assert not prepare_backbone(llama(), None).way.packed
    monkeypatch.undo()
    self_check._CHECKED.clear()
    assert prepare_backbone(llama(), None).way.packed


@pytest.mark.parametrize("name", ["new_bias", "score_mod"])
def test_an_argument_of_attention_that_is_not_known_is_never_swallowed(name, monkeypatch):
    def extended(*args, **named):
        return ragged._attention_interface(*args, **named, **{name: torch.ones(4)})

    monkeypatch.setitem(ragged.ALL_ATTENTION_FUNCTIONS, ATTENTION, extended)
    assert not prepare_backbone(llama(), None).way.packed


def test_a_window_that_only_the_mask_knows_of_is_felt():
    """The layer says nothing of its window to attention."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(MistralConfig(**SMALL, sliding_window=4)).eval()
    ids = torch.arange(3, 33)
    model.set_attn_implementation("eager")
    wanted = model(ids[None], use_cache=False).logits[0]
    backbone = prepare_backbone(model, None)
    for block in backbone.blocks:
        block.self_attn.sliding_window = None
    found = backbone.head.logits(backbone.final_norm(backbone.forward(ids, ragged_layout([30]))))[0]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_logits_that_are_bent_in_an_unknown_way_are_refused():
    model = llama()
    model.lm_head.register_forward_hook(lambda _m, _a, logits: logits)
    plain = model.forward

    def bent(*args, **named):
        output = plain(*args, **named)
        output.logits = output.logits**3
        return output

    model.forward = bent
    with pytest.raises(ModelError, match="changes its logits in a way that is not known"):
        prepare_backbone(model, None)


def test_blocks_that_run_twice_are_refused():
    model = llama()
    model.model.layers[1].forward = lambda hidden, model=model, **named: model.model.layers[0](hidden, **named)
    with pytest.raises(ModelError, match="does not run its 3 blocks once each"):
        prepare_backbone(model, None)


def test_a_model_whose_upper_blocks_read_the_tokens_is_trained_whole_and_not_cut(monkeypatch, tmp_path):
    model = llama()
    embeddings = {}
    model.model.embed_tokens.register_forward_hook(lambda _m, _a, out: embeddings.update(now=out))
    model.model.layers[2].register_forward_pre_hook(lambda _m, args: (args[0] + embeddings["now"], *args[1:]))
    backbone, ids = prepare_backbone(model, None), torch.arange(3, 12)
    whole = backbone.forward(ids, ragged_layout([9]))
    assert whole.shape == (9, 32)
    assert not backbone.way.cuts
    with pytest.raises(ModelError, match="cannot be split: its upper blocks read more"):
        backbone.forward(ids, ragged_layout([9]), between=lambda _done, hidden: hidden)
    found = self_check._CHECKED.copy()
    llama().save_pretrained(tmp_path / "model")
    monkeypatch.setattr(self_check, "_can_be_cut", lambda *_: False)
    self_check._CHECKED.clear()
    with pytest.raises(ModelError, match="cannot be split"):
        load_part(tmp_path / "model", range(1), head=False)
    assert found


def test_weights_that_are_not_finite_are_refused():
    model = llama()
    model.model.layers[1].mlp.up_proj.weight.data[0, 0] = float("nan")
    with pytest.raises(ModelError, match="not finite"):
        prepare_backbone(model, None)


def test_what_a_large_models_check_found_is_kept_for_this_engine(monkeypatch, tmp_path):
    monkeypatch.setattr(self_check, "LARGE_VALUES", 0)
    first = prepare_backbone(decoder("gemma3_window_of_5"), None)
    (kept,) = (tmp_path / "checked").glob("*.json")
    self_check._CHECKED.clear()
    monkeypatch.setattr(self_check, "_check", lambda *_: pytest.fail("checked again"))
    again = prepare_backbone(decoder("gemma3_window_of_5"), None)
    assert (again.structure, again.way) == (first.structure, first.way)
    assert again.sites == first.sites
    seen = []
    monkeypatch.setattr(self_check, "_check", lambda *_: seen.append(1) or deepcopy(found))
    found = Checked(first.structure, first.way)
    for spoiled in ("{", "[]", json.dumps({"structure": {}, "way": {}})):
        kept.write_text(spoiled)
        self_check._CHECKED.clear()
        prepare_backbone(decoder("gemma3_window_of_5"), None)
    monkeypatch.setattr(self_check, "_engine", lambda: "another engine")
    self_check._CHECKED.clear()
    prepare_backbone(decoder("gemma3_window_of_5"), None)
    assert len(seen) == 4


@pytest.mark.parametrize("module", ["model.norm", "lm_head"])
def test_model_code_that_fails_where_a_part_is_called_alone_is_refused_in_a_sentence(module):
    """Blocks or norms may rely on what a whole pass has set up, at its second call as here."""
    model, calls = llama(), []

    def at_first(*_):
        calls.append(1)
        assert len(calls) < 2, "no pass is under way"

    model.get_submodule(module).register_forward_pre_hook(at_first)
    with pytest.raises(ModelError, match=r"LlamaForCausalLM cannot be run in parts \(no pass is under way\)"):
        prepare_backbone(model, None)


def test_a_model_that_drops_positions_before_its_output_layer_is_refused():
    model = llama()
    model.lm_head.register_forward_pre_hook(lambda _m, args: (args[0][:, 1:],))
    with pytest.raises(ModelError, match="changes hidden states on the way to its output layer"):
        prepare_backbone(model, None)


@pytest.mark.parametrize("name", ["lm_head.weight", "model.layers.1.mlp.down_proj.weight"])
def test_a_weight_that_is_no_number_is_what_a_refusal_speaks_of(name):
    model = llama()
    with torch.no_grad():
        model.get_parameter(name)[-1] = torch.nan
    with pytest.raises(ModelError, match="its weights are damaged"):
        prepare_backbone(model, None)
