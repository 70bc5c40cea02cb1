import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from wavetune.models import kernels, loss, output_layer
from wavetune.models.loss import frozen_head_cross_entropy, frozen_head_log_probs
from wavetune.models.output_layer import OutputLayer


def inputs(positions, width=16, vocabulary=50, spread=3.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(positions, width, generator=generator) * spread
    head = torch.randn(vocabulary, width, generator=generator)
    labels = torch.randint(vocabulary, (positions,), generator=generator)
    weights = torch.rand(positions, generator=generator)
    return hidden.requires_grad_(), head, labels, weights


def reference(hidden, head, labels, weights, softcap=None):
    """The same in fp64 with torch's own cross-entropy: loss, each position's loss, gradient of the hidden states."""
    exact = hidden.detach().double().requires_grad_()
    logits = exact @ head.double().t()
    if softcap is not None:
        logits = torch.tanh(logits / softcap) * softcap
    nll = F.cross_entropy(logits, labels, reduction="none")
    total = (nll * weights.double()).sum()
    total.backward()
    return total.detach(), nll.detach(), exact.grad


@given(positions=st.integers(1, 40), vocabulary=st.integers(2, 90), spread=st.floats(0.01, 20), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_loss_and_gradient_are_those_of_fp64_cross_entropy(positions, vocabulary, spread, seed):
    hidden, head, labels, weights = inputs(positions, 16, vocabulary, spread, seed)
    total, nll = frozen_head_cross_entropy(hidden, OutputLayer(head), labels, weights)
    total.backward()
    wanted, each, gradient = reference(hidden, head, labels, weights)
    torch.testing.assert_close(total.detach().double(), wanted, rtol=2e-5, atol=1e-5)
    torch.testing.assert_close(nll.double(), each, rtol=2e-5, atol=5e-5)
    torch.testing.assert_close(hidden.grad.double(), gradient, rtol=1e-4, atol=2e-5 * max(1.0, spread))


def test_soft_capped_logits_have_the_gradient_of_fp64_cross_entropy():
    hidden, head, labels, weights = inputs(20)
    frozen_head_cross_entropy(hidden, OutputLayer(head, softcap=5.0), labels, weights)[0].backward()
    torch.testing.assert_close(
        hidden.grad.double(), reference(hidden, head, labels, weights, 5.0)[2], rtol=1e-4, atol=1e-5
    )


def test_result_does_not_depend_on_how_many_logits_are_held_at_once(monkeypatch):
    hidden, head, labels, weights = inputs(23)
    whole, nll = frozen_head_cross_entropy(hidden, OutputLayer(head), labels, weights)
    whole.backward()
    gradient, hidden.grad = hidden.grad, None
    monkeypatch.setattr(loss, "_CHUNK_VALUES", 4 * head.shape[0])
    chunked, nll_chunked = frozen_head_cross_entropy(hidden, OutputLayer(head), labels, weights)
    chunked.backward()
    torch.testing.assert_close(chunked, whole)
    torch.testing.assert_close(nll_chunked, nll)
    torch.testing.assert_close(hidden.grad, gradient)


def test_never_more_logits_than_the_limit_are_held(monkeypatch):
    hidden, head, labels, weights = inputs(64, vocabulary=32)
    monkeypatch.setattr(loss, "_CHUNK_VALUES", 8 * 32)
    largest = 0
    exponent = torch.logsumexp

    def watched(logits, *rest, **options):
        nonlocal largest
        largest = max(largest, logits.numel())
        return exponent(logits, *rest, **options)

    monkeypatch.setattr(torch, "logsumexp", watched)
    frozen_head_cross_entropy(hidden, OutputLayer(head), labels, weights)[0].backward()
    assert largest <= 8 * 32


def test_logits_of_a_chunk_take_the_room_of_the_one_before(monkeypatch):
    places, found = [], loss._likelihoods
    monkeypatch.setattr(loss, "_likelihoods", lambda z, *others: places.append(z.data_ptr()) or found(z, *others))
    monkeypatch.setattr(loss, "_CHUNK_VALUES", 64 * 50)
    hidden, head, labels, weights = inputs(150)
    frozen_head_cross_entropy(hidden, OutputLayer(head), labels, weights)
    assert len(places) == 3
    assert len(set(places)) == 1


def test_huge_logits_stay_finite():
    hidden, head, labels, weights = inputs(5, spread=1e4)
    total, _ = frozen_head_cross_entropy(hidden, OutputLayer(head), labels, weights)
    total.backward()
    assert torch.isfinite(total)
    assert torch.isfinite(hidden.grad).all()


def test_bf16_head_gives_the_gradient_to_bf16_precision():
    hidden, head, labels, weights = inputs(40, width=64, spread=0.3)
    frozen_head_cross_entropy(hidden, OutputLayer(head.bfloat16()), labels, weights)[0].backward()
    exact = reference(hidden, head, labels, weights)[2]
    assert (hidden.grad.double() - exact).norm() / exact.norm() < 0.02


def test_gradient_scales_with_what_the_loss_is_multiplied_by():
    hidden, head, labels, weights = inputs(6)
    (3.0 * frozen_head_cross_entropy(hidden, OutputLayer(head), labels, weights)[0]).backward()
    torch.testing.assert_close(
        hidden.grad.double(), 3 * reference(hidden, head, labels, weights)[2], rtol=1e-4, atol=1e-5
    )


def test_without_a_gradient_wanted_none_is_kept():
    hidden, head, labels, weights = inputs(6)
    total, nll = frozen_head_cross_entropy(hidden.detach(), OutputLayer(head), labels, weights)
    assert not total.requires_grad
    assert total.item() == pytest.approx(float((nll * weights).sum()))


def plain_log_probs(hidden, head, labels, softcap, temperature):
    """Log-probabilities and entropies as torch's own distributions have them."""
    logits = hidden @ head.t()
    if softcap is not None:
        logits = torch.tanh(logits / softcap) * softcap
    distribution = torch.distributions.Categorical(logits=logits / temperature)
    return distribution.log_prob(labels), distribution.entropy()


@given(
    positions=st.integers(1, 30), vocabulary=st.integers(2, 60), softcap=st.sampled_from([None, 2.0, 30.0]),
    temperature=st.sampled_from([0.5, 1.0, 3.0]), spread=st.floats(0.05, 3), seed=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_log_probabilities_entropies_and_their_gradients_are_torchs(
    positions, vocabulary, softcap, temperature, spread, seed
):
    hidden, head, labels, weights = (x.double() for x in inputs(positions, 8, vocabulary, spread, seed))
    labels, hidden = labels.long(), hidden.detach().requires_grad_()
    found = frozen_head_log_probs(hidden, OutputLayer(head, softcap=softcap), labels, temperature)
    wanted = plain_log_probs(hidden, head, labels, softcap, temperature)
    gradients = []
    for log_prob, entropy in (found, wanted):
        gradients += torch.autograd.grad((weights * log_prob + weights.flip(0) * entropy).sum(), hidden)
    for ours, theirs in zip((*found, gradients[0]), (*wanted, gradients[1]), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("softcap", [None, 4.0])
def test_gradients_of_log_probabilities_and_entropies_pass_gradcheck_in_chunks(monkeypatch, softcap):
    hidden, head, labels, _ = inputs(7, 5, 11)
    monkeypatch.setattr(loss, "_CHUNK_VALUES", 3 * 11)
    hidden, head = hidden.detach().double().requires_grad_(), head.double()
    assert torch.autograd.gradcheck(
        lambda x: frozen_head_log_probs(x, OutputLayer(head, softcap=softcap), labels, 0.7), (hidden,)
    )


def test_the_logits_of_a_chunk_are_computed_once_and_a_second_backward_pass_finds_the_same(monkeypatch):
    hidden, head, labels, weights = inputs(9)
    computed, logits = list[int](), OutputLayer.logits
    monkeypatch.setattr(OutputLayer, "logits", lambda head, x: computed.append(len(x)) or logits(head, x))
    total = (frozen_head_log_probs(hidden, OutputLayer(head), labels)[0] * weights).sum()
    (first,) = torch.autograd.grad(total, hidden, retain_graph=True)
    assert computed == [9]
    (second,) = torch.autograd.grad(total, hidden)
    assert torch.equal(first, second)
    assert computed == [9, 9]


def test_log_probabilities_never_hold_more_logits_than_the_limit(monkeypatch):
    hidden, head, labels, _ = inputs(64, vocabulary=32)
    monkeypatch.setattr(loss, "_CHUNK_VALUES", 8 * 32)
    sizes, softmax = [], torch.log_softmax

    def watched(logits, dim):
        sizes.append(logits.numel())
        return softmax(logits, dim)

    monkeypatch.setattr(torch, "log_softmax", watched)
    log_prob, entropy = frozen_head_log_probs(hidden, OutputLayer(head), labels)
    (log_prob + entropy).sum().backward()
    assert max(sizes) <= 8 * 32
    assert len(sizes) == 16  # eight chunks, forward and backward


def test_log_probabilities_are_the_cross_entropys_in_every_precision():
    for dtype in (torch.float32, torch.bfloat16):
        hidden, head, labels, weights = inputs(20, spread=0.3)
        _, nll = frozen_head_cross_entropy(hidden, OutputLayer(head.to(dtype)), labels, weights)
        log_prob, _ = frozen_head_log_probs(hidden, OutputLayer(head.to(dtype)), labels)
        assert log_prob.dtype == torch.float32
        torch.testing.assert_close(log_prob, -nll, rtol=1e-5, atol=1e-5)


def test_likelihoods_that_stay_in_bf16_are_those_of_wide_logits(monkeypatch):
    vocabulary = 1 << 14
    hidden, head, labels, weights = inputs(40, vocabulary=vocabulary, spread=0.3)
    hidden, layer, found = hidden.detach(), OutputLayer(head.to(torch.bfloat16)), []
    for narrow in (True, False):
        monkeypatch.setattr(output_layer, "has_bf16_products", lambda narrow=narrow: narrow)
        monkeypatch.setattr(loss, "_CHUNK_VALUES", 16 * vocabulary)
        leaf = hidden.clone().requires_grad_()
        total, nll = frozen_head_cross_entropy(leaf, layer, labels, weights)
        total.backward()
        found.append((nll, leaf.grad))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-2, atol=1e-4)


@pytest.fixture
def swept(monkeypatch):
    """Every vocabulary is worth a compiled sweep."""
    monkeypatch.setattr(loss, "_LEAST_VOCABULARY", 1)


@pytest.mark.usefixtures("swept")
@pytest.mark.parametrize(
    ("positions", "vocabulary", "spread"), [(1, 2, 0.1), (30, 61, 3.0), (9, 20_000, 3.0), (5, 50, 1e4)]
)
def test_a_compiled_sweep_has_the_loss_and_gradient_of_fp64(positions, vocabulary, spread):
    hidden, head, labels, weights = inputs(positions, 16, vocabulary, spread)
    total, nll = frozen_head_cross_entropy(hidden, OutputLayer(head), labels, weights)
    total.backward()
    wanted, each, gradient = reference(hidden, head, labels, weights)
    torch.testing.assert_close(total.detach().double(), wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(nll.double(), each, rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(hidden.grad.double(), gradient, rtol=1e-4, atol=1e-5 * max(1.0, spread))


@pytest.mark.usefixtures("swept")
@pytest.mark.parametrize("softcap", [None, 4.0])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_a_compiled_sweep_has_the_log_probabilities_entropies_and_gradients_of_fp64(softcap, temperature):
    hidden, head, labels, weights = inputs(20, 8, 5000, 1.0)
    exact = hidden.detach().double().requires_grad_()
    results, gradients = [], []
    for x, own in ((hidden, head), (exact, head.double())):
        log_prob, entropy = frozen_head_log_probs(x, OutputLayer(own, softcap=softcap), labels, temperature)
        results += [log_prob.double(), entropy.double()]
        gradients.append(torch.autograd.grad((weights * log_prob + weights.flip(0) * entropy).sum(), x)[0].double())
    torch.testing.assert_close(results[:2], results[2:], rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


def test_a_compiled_sweep_leaves_infinite_logits_without_weight_and_what_is_not_a_number_in_its_row():
    logits = torch.tensor([[0.0, -torch.inf, 1.0], [0.0, torch.nan, 1.0], [3.0, 1.0, 2.0]])
    labels, weights = torch.tensor([0, 0, 0]), torch.ones(3)
    wanted = F.cross_entropy(logits, labels, reduction="none")
    log_prob, _ = kernels.distributions(logits.clone(), labels, 1.0)
    nll = kernels.likelihoods(logits, labels, weights)
    torch.testing.assert_close(nll, wanted, equal_nan=True)
    torch.testing.assert_close(log_prob, -wanted, equal_nan=True)
    assert torch.isfinite(logits).all(1).tolist() == [True, False, True]
