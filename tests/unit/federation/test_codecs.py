import itertools
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.runs import small
from wavetune.errors import ConfigError
from wavetune.federation.codecs import Bf16, Fp32, Int8, TopK
from wavetune.federation.codecs.codec import Context, Transform, on_the_wire, receive, send, specs
from wavetune.federation.messages import Field
from wavetune.parts import kinds

CODECS = [Fp32(), Bf16(), Int8(), Int8(outlier_channels=0), Int8(outlier_channels=1), Int8(outlier_channels=1000)]
SHAPES = {"rows": st.integers(0, 12), "width": st.integers(1, 40), "seed": st.integers(0, 999)}


def draw(rows, width, seed, outliers=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, width, generator=generator)
    x[:, torch.randperm(width, generator=generator)[:outliers]] *= 100
    return x


def sent_bits(payload):
    """Bits of what would be written: raw bytes of each tensor as NumPy stores it."""
    return sum(8 * len(t.contiguous().flatten().view(torch.uint8).numpy().tobytes()) for t in payload.values())


@pytest.mark.parametrize("codec", [*CODECS, TopK(), TopK(fraction=1e-6), TopK(fraction=1)], ids=repr)
@given(**SHAPES)
def test_stated_bits_are_those_of_the_payload(codec, rows, width, seed):
    x = draw(rows, width, seed)
    assert sent_bits(codec.encode(x)) == codec.bits(rows, width)
    assert codec.decode(codec.encode(x)).shape == x.shape


@given(fraction=st.floats(0.01, 1), **SHAPES)
def test_top_k_keeps_the_largest_values_of_each_row_exactly(fraction, rows, width, seed):
    x, codec = draw(rows, width, seed), TopK(fraction=fraction)
    decoded = codec.decode(codec.encode(x))
    kept = decoded != 0
    assert torch.equal(decoded[kept], x[kept])
    assert (kept.sum(1) == codec.kept(width)).all()
    for row in range(rows):
        rest = x[row, ~kept[row]].abs()
        assert not len(rest) or rest.max() <= x[row, kept[row]].abs().min()


@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_nothing_to_send_takes_no_bits(codec):
    assert codec.bits(0, 64) == 0
    assert codec.decode(codec.encode(torch.zeros(0, 64))).shape == (0, 64)


@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_decoding_gives_fp32_that_shares_no_gradient(codec):
    x = draw(4, 8, 0).requires_grad_()
    decoded = codec.decode(codec.encode(x))
    assert decoded.dtype == torch.float32
    assert not decoded.requires_grad


@given(**SHAPES)
def test_fp32_is_exact(rows, width, seed):
    x = draw(rows, width, seed)
    assert torch.equal(Fp32().decode(Fp32().encode(x)), x)


@given(**SHAPES)
def test_bf16_is_within_half_a_unit_of_its_last_place(rows, width, seed):
    x = draw(rows, width, seed)
    assert ((Bf16().decode(Bf16().encode(x)) - x).abs() <= 2.0**-8 * x.abs()).all()


@given(outliers=st.integers(0, 5), apart=st.integers(0, 12), **SHAPES)
def test_int8_is_within_half_a_step_of_each_row_and_bf16_in_its_outlier_channels(outliers, apart, rows, width, seed):
    x, codec = draw(rows, width, seed, outliers), Int8(outlier_channels=apart)
    payload = codec.encode(x)
    error = (codec.decode(payload) - x).abs()
    index = payload["index"].long()
    chosen = torch.zeros(width, dtype=torch.bool).index_fill(0, index, True)
    assert (error[:, chosen] <= 2.0**-8 * x[:, chosen].abs()).all()
    rest = x[:, ~chosen].abs()
    if rows and rest.shape[1]:
        step = rest.amax(1, keepdim=True) / 127
        assert (error[:, ~chosen] <= step * (0.5 + 1e-4)).all()
        assert x.abs().amax(0)[~chosen].max() <= min(x.abs().amax(0)[chosen].tolist(), default=np.inf)


def test_outlier_channels_apart_spare_the_others():
    x = draw(50, 64, 0, outliers=3)
    index = Int8(3).encode(x)["index"].long()
    plain = torch.ones(64, dtype=torch.bool)
    plain[index] = False
    assert x[:, index].abs().max() > 50

    def error(codec):
        return float((codec.decode(codec.encode(x)) - x)[:, plain].norm() / x[:, plain].norm())

    assert error(Int8(3)) < error(Int8(0)) / 20


@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_zeros_and_tiny_values_survive(codec):
    x = torch.tensor([[0.0, 0.0, 0.0], [1e-38, -1e-38, 0.0], [3.0, 0.0, -3.0]])
    decoded = codec.decode(codec.encode(x))
    assert torch.isfinite(decoded).all()
    assert (decoded - x).abs().max() <= 3.0 / 127


@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_what_is_not_finite_stays_so_and_is_not_hidden(codec):
    """A diverged run must be seen on the other side of the cut, not arrive as plausible numbers."""
    for bad in (float("nan"), float("inf")):
        x = draw(4, 8, 0)
        x[2, 3] = bad
        assert not torch.isfinite(codec.decode(codec.encode(x))).all()


def test_int8_costs_a_quarter_of_fp32_plus_scales_and_outliers():
    assert Int8(outlier_channels=8).bits(100, 576) == 100 * (8 * 568 + 16 * 8 + 32) + 32 * 8
    assert Fp32().bits(100, 576) == 32 * 57600
    assert Bf16().bits(100, 576) == 16 * 57600


def test_decoded_half_precision_input_is_what_its_fp32_form_gives():
    x = draw(4, 8, 0).bfloat16()
    for codec in CODECS:
        assert torch.equal(codec.decode(codec.encode(x)), codec.decode(codec.encode(x.float())))


def sent_and_read(chain):
    """A message of two matrices through a chain, and what its wire holds."""
    x = {"a": torch.randn(4, 16), "b": torch.randn(16, 12)}
    spec = {name: Field(tuple(tensor.shape)) for name, tensor in x.items()}
    states = [one.start(before) for one, before in zip(chain, specs(chain, spec)[:-1], strict=True)]
    sent, _ = send(chain, x, states, Context(0, 0, 0))
    return x, sent, on_the_wire(chain, spec), receive(chain, sent, spec, Context(0, 0, 0))


def test_a_chain_of_any_two_transforms_is_read_as_it_is_declared_or_refused():
    refused = dict[tuple[str, str], str]()
    for first, second in itertools.product(kinds(Transform), repeat=2):
        settings = json.dumps([{"kind": first}, {"kind": second}])
        try:
            method = small("fedavg_lora", f"method.adapter_codec={settings}").method
            method.check(3, 4, 16)
        except ConfigError as error:
            refused[first, second] = str(error)
            continue
        x, sent, declared, read = sent_and_read(method.adapter_codec)
        assert {n: tuple(map(int, f.shape)) for n, f in declared.items()} == {
            n: tuple(t.shape) for n, t in sent.items()
        }
        assert {n: f.format for n, f in declared.items() if f.format.startswith("int")} == {
            n: str(t.dtype).removeprefix("torch.") for n, t in sent.items() if not t.is_floating_point()
        }
        assert {name: t.shape for name, t in read.items()} == {name: t.shape for name, t in x.items()}
        assert all(t.isfinite().all() for t in read.values())
    assert all("without codes or places beside them" in sentence for sentence in refused.values())
    assert refused.keys() == {
        (first, second)
        for first in ("int8", "top_k", "feedback")
        for second in ("clip", "noise", "random_sparse", "top_k", "feedback")
    }
