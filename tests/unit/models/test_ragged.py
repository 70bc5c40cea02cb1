import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.decoders import FAMILIES, decoder
from wavetune.models.backbone import prepare_backbone
from wavetune.models.ragged import ATTENTION, Rule, branched_layout, ragged_attention, ragged_layout, reach
from wavetune.models.short_rows import ShortAttention

LENGTHS = [3, 17, 1, 30, 4, 30, 12, 60]


@pytest.mark.parametrize("family", FAMILIES)
def test_ragged_batch_gives_the_hidden_states_of_each_sample_alone(family):
    stock, backbone = decoder(family, "eager"), prepare_backbone(decoder(family, ATTENTION), None)
    samples = [torch.randint(3, 64, (n,), generator=torch.Generator().manual_seed(n)) for n in LENGTHS]
    hidden = backbone.final_norm(backbone.forward(torch.cat(samples), ragged_layout(LENGTHS)))
    for found, sample in zip(hidden.split(LENGTHS), samples, strict=True):
        wanted = stock(input_ids=sample[None], output_hidden_states=True, use_cache=False).hidden_states[-1][0]
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["gemma3_window_of_5", "mistral_window_of_4"])
def test_sliding_windows_are_felt_in_that_comparison(family):
    stock, backbone = decoder(family, "eager"), prepare_backbone(decoder(family, ATTENTION), None)
    for block in stock.get_decoder().layers:
        block.self_attn.sliding_window = None
    stock.config.layer_types = ["full_attention"] * 3
    stock.config.sliding_window = 64
    sample = torch.arange(3, 33)
    wanted = stock(input_ids=sample[None], output_hidden_states=True, use_cache=False).hidden_states[-1][0]
    found = backbone.final_norm(backbone.forward(sample, ragged_layout([30])))
    assert (found - wanted).abs().max() > 1e-3


def naive_attention(query, key, value, lengths, scaling, causal, window):
    repeat = query.shape[1] // key.shape[1]
    outputs = []
    for q, k, v in zip(query.split(lengths), key.split(lengths), value.split(lengths), strict=True):
        k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
        back = torch.arange(len(q))[:, None] - torch.arange(len(q))
        allowed = torch.ones_like(back, dtype=torch.bool)
        if causal:
            allowed &= back >= 0
        if window is not None:
            allowed &= back.abs() < window
        scores = torch.einsum("ihd,jhd->hij", q, k) * scaling
        weights = scores.masked_fill(~allowed, -torch.inf).softmax(-1)
        outputs.append(torch.einsum("hij,jhd->ihd", weights, v))
    return torch.cat(outputs)


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=7),
    heads=st.sampled_from([(4, 4), (4, 2), (3, 1)]),
    causal=st.booleans(),
    window=st.none() | st.integers(1, 45),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_attention_and_its_gradients_are_those_of_a_loop_over_samples(lengths, heads, causal, window, seed):
    generator = torch.Generator().manual_seed(seed)

    def draw(count):
        return torch.randn(sum(lengths), count, 8, generator=generator, dtype=torch.float64).requires_grad_()

    tensors, upstream = [draw(heads[0]), draw(heads[1]), draw(heads[1])], draw(heads[0]).detach()
    found = ragged_attention(*tensors, ragged_layout(lengths), Rule(reach(causal, window), 0.3))
    gradients = torch.autograd.grad(found, tensors, upstream)
    wanted = naive_attention(*tensors, lengths, 0.3, causal, window)
    torch.testing.assert_close(found, wanted)
    for mine, theirs in zip(gradients, torch.autograd.grad(wanted, tensors, upstream), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.fixture
def short(monkeypatch) -> list[int]:
    """How many samples passes had whose attention was by products of whole samples."""
    counted, forward = [], ShortAttention.forward

    def counting(self, *arguments):
        counted.append(sum(samples for samples, _ in self._places.groups))
        return forward(self, *arguments)

    monkeypatch.setattr(ShortAttention, "forward", counting)
    return counted


def wide_heads(lengths, heads, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((heads[0], 64), (heads[1], 64), (heads[1], 48), (heads[0], 48))
    return [torch.randn(sum(lengths), *shape, generator=generator) for shape in shapes]


@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=7),
    heads=st.sampled_from([(4, 4), (8, 2), (6, 3)]),
    causal=st.booleans(),
    window=st.none() | st.integers(1, 80),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_attention_of_short_samples_by_whole_products_is_that_of_a_loop_in_fp64(
    short, lengths, heads, causal, window, seed
):
    short.clear()
    *tensors, upstream = wide_heads(lengths, heads, seed)
    leaves = [t.requires_grad_() for t in tensors]
    found = ragged_attention(*leaves, ragged_layout(lengths), Rule(reach(causal, window), 0.3))
    gradients = torch.autograd.grad(found, leaves, upstream)
    exact = [t.detach().double().requires_grad_() for t in tensors]
    wanted = naive_attention(*exact, lengths, 0.3, causal, window)
    assert short == ([len(lengths)] if window is None or (causal and window >= max(lengths)) else [])
    theirs_all = (wanted, *torch.autograd.grad(wanted, exact, upstream.double()))
    for mine, theirs in zip((found, *gradients), theirs_all, strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-4, atol=1e-5)


def test_what_is_not_a_number_stays_with_its_sample_and_with_what_stands_behind_it(short):
    lengths = [30, 20, 25]
    *tensors, _ = wide_heads(lengths, (4, 4))
    tensors[1][35] = torch.nan  # the sixth key of the second sample
    read = ragged_attention(*tensors, ragged_layout(lengths), Rule(reach()))
    assert short == [3]
    lost = read.isnan().flatten(1).any(1)
    assert lost.nonzero().flatten().tolist() == list(range(35, 50))


def test_long_samples_and_other_rules_have_pytorchs_attention(short):
    for lengths, heads, rule in (
        ([257, 3], (4, 4), Rule(reach())),
        ([9], (4, 4), Rule(reach(causal=False, window=3))),
        ([9], (4, 4), Rule(reach(), softcap=5.0)),
        ([9], (2, 1), Rule(reach())),  # so narrow that it is quick without a compiler
    ):
        ragged_attention(*wide_heads(lengths, heads)[:3], ragged_layout(lengths), rule)
    assert short == []


TREES = ([5, 1, 30, 3], [[4, 0, 7], [2], [1, 1, 25], []])  # trunks, and the branches of each


@pytest.mark.parametrize("family", FAMILIES)
def test_every_branch_has_the_hidden_states_of_its_trunk_and_itself_alone(family):
    backbone, generator = prepare_backbone(decoder(family, ATTENTION), None), torch.Generator().manual_seed(0)
    trees = [
        [torch.randint(3, 64, (n,), generator=generator) for n in (trunk, *own)]
        for trunk, own in zip(*TREES, strict=True)
    ]
    found = backbone.forward(torch.cat([part for tree in trees for part in tree]), branched_layout(*TREES))
    parts = iter(found.split([len(part) for tree in trees for part in tree]))
    for trunk, *branches in trees:
        torch.testing.assert_close(
            next(parts), backbone.forward(trunk, ragged_layout([len(trunk)])), rtol=1e-4, atol=1e-4
        )
        for branch in branches:
            alone = backbone.forward(torch.cat([trunk, branch]), ragged_layout([len(trunk) + len(branch)]))
            torch.testing.assert_close(next(parts), alone[len(trunk) :], rtol=1e-4, atol=1e-4)


@given(
    trees=st.lists(st.tuples(st.integers(1, 20), st.lists(st.integers(0, 9), max_size=4)), min_size=1, max_size=5),
    window=st.none() | st.integers(1, 30),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_attention_on_trees_and_its_gradients_are_those_of_all_paths_apart(trees, window, seed):
    """Each branch apart with a copy of its trunk: the copies' gradients add up."""
    trunks, branches = [trunk for trunk, _ in trees], [own for _, own in trees]
    generator, paths, read, start = torch.Generator().manual_seed(seed), [], [], 0
    for trunk, own in trees:
        rows, behind = [*range(start, start + trunk)], start + trunk
        paths.append(rows)
        read.append(range(trunk))
        for size in own:
            paths.append([*rows, *range(behind, behind + size)])
            read.append(range(trunk, trunk + size))
            behind += size
        start = behind
    tensors = [torch.randn(start, 2, 8, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(3)]
    upstream = torch.randn(start, 2, 8, generator=generator, dtype=torch.float64)
    found = ragged_attention(*tensors, branched_layout(trunks, branches), Rule(reach(True, window), 0.3))
    gradients = torch.autograd.grad(found, tensors, upstream)
    apart = [naive_attention(*(x[path] for x in tensors), [len(path)], 0.3, True, window) for path in paths]
    wanted = torch.cat([path[list(rows)] for path, rows in zip(apart, read, strict=True)])
    torch.testing.assert_close(found, wanted)
    for mine, theirs in zip(gradients, torch.autograd.grad(wanted, tensors, upstream), strict=True):
        torch.testing.assert_close(mine, theirs)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=40))
def test_layout_gives_every_token_a_place_of_its_own_and_its_position(lengths):
    layout = ragged_layout(lengths)
    assert layout.positions_N.tolist() == [t for n in lengths for t in range(n)]
    assert sorted(n for group in layout.group_lengths for n in group) == sorted(lengths)
    for (samples, longest), own in zip(layout.groups, layout.group_lengths, strict=True):
        assert (samples, longest) == (len(own), max(own))
    if layout.slot_N is None:
        assert len(set(lengths)) == 1
    else:
        assert len(set(layout.slot_N.tolist())) == sum(lengths)
        assert max(layout.slot_N.tolist()) < layout.padded_tokens


@given(st.lists(st.integers(1, 512), min_size=1, max_size=64))
def test_padding_is_bounded(lengths):
    """Each sample is padded to at most 1.25 of the shortest in its group, plus 8 tokens."""
    assert ragged_layout(lengths).padded_tokens <= 1.25 * sum(lengths) + 8 * len(lengths)
