from collections import Counter

import torch

from wavetune.federation.codecs import Bf16, Fp32, Int8
from wavetune.federation.door import Door


def test_what_arrives_is_what_the_other_side_decodes_in_the_senders_dtype():
    x = torch.randn(3, 5)
    assert torch.equal(Door().send("activations_up", 0, x, Fp32()), x)
    assert torch.equal(Door().send("activations_up", 0, x, Bf16()), x.bfloat16().float())
    assert Door().send("activations_up", 0, x.bfloat16(), Fp32()).dtype == torch.bfloat16


def test_bits_are_metered_by_kind_and_client_until_taken():
    door = Door()
    door.send("activations_up", 0, torch.randn(3, 5), Fp32())
    door.send("activations_up", 0, torch.randn(2, 5), Fp32())
    door.send("activations_up", 2, torch.randn(2, 5), Bf16())
    door.send_ids("labels_up", 2, torch.arange(7))
    assert door.take() == Counter(
        {("activations_up", 0): 32 * 25, ("activations_up", 2): 16 * 10, ("labels_up", 2): 32 * 7}
    )
    assert not door.take()


def test_carry_sees_all_that_is_sent_and_may_change_what_arrives():
    seen = []

    def lose_second_row(kind, client, payload):
        seen.append((kind, client, {name: tuple(t.shape) for name, t in payload.items()}))
        return {name: t * torch.tensor([[1.0], [0.0]]) for name, t in payload.items()}

    arrived = Door(lose_second_row).send("gradients_down", 4, torch.ones(2, 3), Fp32())
    assert arrived.tolist() == [[1, 1, 1], [0, 0, 0]]
    assert seen == [("gradients_down", 4, {"values": (2, 3)})]


def test_ids_arrive_unchanged():
    ids = torch.tensor([0, 5, 2**31 - 1])
    arrived = Door().send_ids("labels_up", 0, ids)
    assert torch.equal(arrived, ids)
    assert arrived.dtype == ids.dtype


def test_metered_bits_do_not_depend_on_the_values():
    for codec in (Fp32(), Bf16(), Int8()):
        door = Door()
        for x in (torch.zeros(4, 16), torch.randn(4, 16) * 1e6):
            door.send("activations_up", 0, x, codec)
            assert door.take() == {("activations_up", 0): codec.bits(4, 16)}
