"""How the work of a local step falls on clients and server. Shape suffixes: I steps, K clients, L layers."""

from dataclasses import dataclass

import numpy as np

from wavetune.costs.layer_costs import LayerCosts
from wavetune.costs.memory import FP32, Storage, client_layer_memory
from wavetune.costs.table import Amount, CostTable, Workload, check_cut, check_rank
from wavetune.units import Array


@dataclass(frozen=True)
class SplitWork:
    """Compute of one local step on both sides of each client's cut.

    Args:
        client_forward_flop_K: forward pass on each client, [..., K] (FLOP).
        client_backward_flop_K: backward pass on each client (FLOP).
        server_forward_flop_K: forward pass on the server for each client's batch; the server's own is their sum (FLOP).
        server_backward_flop_K: backward pass likewise (FLOP).
    """

    client_forward_flop_K: Array
    client_backward_flop_K: Array
    server_forward_flop_K: Array
    server_backward_flop_K: Array


def split_work(
    table: CostTable,
    cut_K: Amount,
    rank_K: Amount,
    server_rank: Amount,
    workload: Workload,
    *,
    u_shape: bool = False,
) -> SplitWork:
    """Compute of a local step, split at each client's cut.

    Client k runs blocks 0 .. cut_k - 1 with its own rank, the server the others with the server's. The head runs where
    the last block does, on the client if the model is U-shaped.

    Args:
        table: costs of the layers.
        cut_K: blocks on each client, [K] or one number, 0 to L; L leaves nothing on the server.
        rank_K: LoRA rank on each client, [K] or one number.
        server_rank: LoRA rank on the server.
        workload: each client's batch, fields [K], [I, K] or one number for all.
        u_shape: whether labels, head and loss stay on the clients.

    Returns:
        The compute, [K] or [I, K] each.

    Raises:
        ConfigError: a cut is outside 0 .. L (1 .. L if U-shaped), or a rank is negative.

    Ignores: that a client of rank 0 trains nothing and needs no backward pass.

    >>> from wavetune.costs.architecture import PRESETS
    >>> table = CostTable(PRESETS["gpt2"], ("c_attn",))
    >>> batch = Workload.from_lengths([512], labelled=0)
    >>> work = split_work(table, np.array([1, 3]), rank_K=0, server_rank=0, workload=batch)
    >>> [float(flop) / 8053063680 for flop in (*work.client_forward_flop_K, *work.server_forward_flop_K)]
    [1.0, 3.0, 11.0, 9.0]
    """
    check_cut(cut_K, table.num_layers, u_shape=u_shape)
    check_rank("rank_K", rank_K)
    check_rank("server_rank", server_rank)
    on_client = np.arange(table.num_layers) < np.asarray(cut_K)[..., None]
    head_on_client = np.asarray(cut_K) == table.num_layers if not u_shape else np.True_

    def split(base: Array, lora: Array, head: Array) -> tuple[Array, Array]:
        client = np.where(on_client, base + np.asarray(rank_K)[..., None] * lora, 0.0).sum(axis=-1)
        server = np.where(on_client, 0.0, base + np.asarray(server_rank)[..., None] * lora).sum(axis=-1)
        return client + np.where(head_on_client, head, 0.0), server + np.where(head_on_client, 0.0, head)

    client_forward, server_forward = split(
        table.forward_flop(workload) + table.fixed_forward_flop(workload),
        table.lora_forward_flop_per_rank(workload),
        table.head_forward_flop(workload),
    )
    client_backward, server_backward = split(
        table.backward_flop(workload) + table.fixed_backward_flop(workload),
        table.lora_backward_flop_per_rank(workload),
        table.head_backward_flop(workload),
    )
    return SplitWork(client_forward, client_backward, server_forward, server_backward)


def layer_costs(
    table: CostTable,
    tokens_per_sample: float,
    labelled_per_sample: float,
    activation_bits_per_value: float,
    adapter_bits_per_value: float,
    *,
    batch_size: float,
    token_pairs_per_sample: float | None = None,
    storage: Storage = FP32,
    u_shape: bool = False,
) -> LayerCosts:
    """Costs per sample and layer: what the planner optimises over.

    Head and loss are folded into the last layer, after which they always run, or into the first, which is always on
    the client, if the model is U-shaped. A client's memory for a cut is thus the sum over its layers.

    Args:
        table: costs of the layers.
        tokens_per_sample: mean length of a sample (tokens).
        labelled_per_sample: mean number of labelled positions of a sample.
        activation_bits_per_value: what a value takes that crosses the cut (bits).
        adapter_bits_per_value: what an adapter value takes that is sent (bits).
        batch_size: samples of a client's local step, for the memory.
        token_pairs_per_sample: mean squared length of a sample; the squared mean if None (equal lengths).
        storage: how training stores its values, for the memory.
        u_shape: whether labels, head and loss stay on the clients.

    Returns:
        The arrays over layers.

    GPT-2 small at 512 tokens, fp32: 12.58 Mbit a sample at every cut, 98.3 kbit an adapter and unit of rank.

    >>> from wavetune.costs.architecture import PRESETS
    >>> costs = layer_costs(CostTable(PRESETS["gpt2"], ("c_attn",)), 512, 512, 32, 32, batch_size=16)
    >>> float(costs.forward_flop_L[0]), float(costs.activation_bits_L[0]), float(costs.lora_bits_per_rank_L[0])
    (8053063680.0, 12582912.0, 98304.0)
    """
    pairs = tokens_per_sample**2 if token_pairs_per_sample is None else token_pairs_per_sample
    sample = Workload(1.0, tokens_per_sample, pairs, labelled_per_sample)
    batch = Workload(*(batch_size * amount for amount in (1.0, tokens_per_sample, pairs, labelled_per_sample)))
    forward = table.forward_flop(sample) + table.fixed_forward_flop(sample)
    backward = table.backward_flop(sample) + table.fixed_backward_flop(sample)
    head_layer = 0 if u_shape else -1
    forward[head_layer] += table.head_forward_flop(sample)
    backward[head_layer] += table.head_backward_flop(sample)
    memory, memory_per_rank = client_layer_memory(table, batch, storage, u_shape=u_shape)
    activation_bits = tokens_per_sample * table.activation_values_per_token * activation_bits_per_value
    return LayerCosts(
        forward_flop_L=forward,
        backward_flop_L=backward,
        lora_forward_flop_per_rank_L=table.lora_forward_flop_per_rank(sample),
        lora_backward_flop_per_rank_L=table.lora_backward_flop_per_rank(sample),
        activation_bits_L=np.full(table.num_layers, activation_bits),
        lora_bits_per_rank_L=table.lora_values_per_rank_L * adapter_bits_per_value,
        memory_bytes_L=memory,
        memory_bytes_per_rank_L=memory_per_rank,
    )
