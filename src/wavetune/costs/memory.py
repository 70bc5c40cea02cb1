"""Memory that training takes on a client. Shape suffixes: K clients, L layers.

It holds its frozen blocks; of these the activations saved for the backward pass (`BlockCosts`) and the adapters with
their gradients and AdamW moments; and what the largest step needs for a moment.
"""

from dataclasses import dataclass

import numpy as np

from wavetune.costs.table import Amount, CostTable, Workload, check_cut, check_rank
from wavetune.units import Array


@dataclass(frozen=True)
class Storage:
    """How training stores its values.

    Args:
        weight_bytes: a frozen weight: 4 in fp32, 2 in bf16, 1 in int8.
        activation_bytes: a saved activation; 4 also over bf16 weights, where only matrix products run in bf16.
        adapter_bytes: an adapter value with its gradient and what the optimiser remembers (AdamW: two moments), fp32.
        logit_values: the most logits that exist at once; the loss is computed in chunks of as many.
        outer_bytes: a weight of the embedding and the head; as the others if None.
    """

    weight_bytes: float = 4
    activation_bytes: float = 4
    adapter_bytes: float = 16
    logit_values: int = 2**25
    outer_bytes: float | None = None

    @property
    def outer_weight_bytes(self) -> float:
        """A weight of the embedding and the head."""
        return self.weight_bytes if self.outer_bytes is None else self.outer_bytes


FP32 = Storage()
BY_PRECISION = {"bf16": Storage(weight_bytes=2), "int8": Storage(weight_bytes=1, outer_bytes=4)}
"""By `run.precision`, where it is not fp32 or left to the machine. Norms count as the maps of their blocks; not
counted are the steps of int8 weights, one an output channel.
"""


def client_layer_memory(
    table: CostTable, workload: Workload, storage: Storage = FP32, *, u_shape: bool = False
) -> tuple[Array, Array]:
    """Memory that each block takes on a client, so that a cut's memory is a sum over its first blocks.

    The first block carries what every client holds: the embedding, the boundary and the passing needs of the largest
    backward step, and the head if the model is U-shaped. The last block carries the head otherwise.

    Args:
        table: costs of the layers.
        workload: the client's whole batch, fields of any leading shape.
        storage: bytes per value.
        u_shape: whether labels, head and loss stay on the clients.

    Returns:
        Bytes that do not depend on the rank, [..., L], and bytes per unit of rank, [..., L].

    Ignores: the allocator's rounding and fragmentation, attention kernels that keep the score matrix (4 bytes a head
        and token pair), padding of ragged samples inside attention, dropout masks.
    """
    embedding = table.architecture.embedding_values * storage.outer_weight_bytes
    always = embedding + _passing_bytes(table, workload, storage)
    head = _head_bytes(table, workload.labelled, workload.samples, storage)
    layer_L = np.arange(table.num_layers)
    fixed = _block_bytes(table, storage) + _saved_bytes(table, workload, storage)
    fixed = fixed + always[..., None] * (layer_L == 0)
    fixed = fixed + head[..., None] * (layer_L == (0 if u_shape else table.num_layers - 1))
    return fixed, _adapter_bytes(table, storage) + _saved_lora_bytes(table, workload, storage)


def client_memory_bytes(
    table: CostTable,
    cut: Amount,
    rank: Amount,
    workload: Workload,
    storage: Storage = FP32,
    *,
    u_shape: bool = False,
) -> Array:
    """Memory a client needs to train the blocks below its cut.

    Args:
        table: costs of the layers.
        cut: blocks on the client, [...] or one number; with all L the head is there too.
        rank: LoRA rank on the client, [...] or one number.
        workload: the client's whole batch, fields [...] or one number.
        storage: bytes per value.
        u_shape: whether labels, head and loss stay on the client.

    Returns:
        Bytes, [...]; for the exclusions see `client_layer_memory`.

    Raises:
        ConfigError: the cut is outside 0 .. L (1 .. L if U-shaped), or the rank is negative.

    Embedding of GPT-2 small and one block, 38 597 376 + 786 432 + 7 087 872 values of 4 bytes:

    >>> from wavetune.costs.architecture import PRESETS
    >>> table = CostTable(PRESETS["gpt2"], ("c_attn",))
    >>> float(client_memory_bytes(table, cut=1, rank=0, workload=Workload(0, 0, 0, 0)))
    185886720.0
    """
    check_cut(cut, table.num_layers, u_shape=u_shape)
    check_rank("rank", rank)
    fixed, per_rank = client_layer_memory(table, workload, storage, u_shape=u_shape)
    on_client = np.arange(table.num_layers) < np.asarray(cut)[..., None]
    return np.where(on_client, fixed + np.asarray(rank)[..., None] * per_rank, 0.0).sum(axis=-1)


def _block_bytes(table: CostTable, storage: Storage) -> Array:
    """Frozen weights of each block, its adapters without a rank, their gradients and moments if they train, [L]."""
    fixed_bytes = storage.adapter_bytes / 4 if table.frozen_adapters else storage.adapter_bytes
    values_L = np.array([block.values for block in table.architecture.blocks], dtype=float)
    return values_L * storage.weight_bytes + table.fixed_values_L * fixed_bytes


def _adapter_bytes(table: CostTable, storage: Storage) -> Array:
    """Adapters of each block with gradients and moments, per unit of rank, [L]."""
    return table.lora_values_per_rank_L * storage.adapter_bytes


def _saved_bytes(table: CostTable, workload: Workload, storage: Storage) -> Array:
    """Activations each block saves, [..., L]."""
    tokens = np.asarray(workload.tokens, dtype=float)
    return tokens[..., None] * table.saved_values_per_token_L * storage.activation_bytes


def _saved_lora_bytes(table: CostTable, workload: Workload, storage: Storage) -> Array:
    """Activations the adapters of each block save, per unit of rank, [..., L]."""
    tokens = np.asarray(workload.tokens, dtype=float)
    return tokens[..., None] * table.saved_lora_values_per_token_L * storage.activation_bytes


def _passing_bytes(table: CostTable, workload: Workload, storage: Storage) -> Array:
    """What exists for a moment: three tensors as wide as the MLP and one as wide as the residual stream, and what all
    blocks share: sines and cosines of rotary positions; [...].
    """
    values = table.architecture.passing_values_per_token
    return np.asarray(workload.tokens, dtype=float) * values * storage.activation_bytes


def _head_bytes(table: CostTable, labelled: Amount, samples: Amount, storage: Storage) -> Array:
    """Final norm and head; at labelled positions the norm's input and the loss's gradient; one chunk of logits twice.

    A tied head is the embedding's matrix and takes nothing. A head on pooled samples takes its
    gradients and moments too, and two vectors a sample, while the matrix is loaded without being used; [...].
    """
    a = table.architecture
    labelled, samples = np.asarray(labelled, dtype=float), np.asarray(samples, dtype=float)
    matrix = 0 if a.tied_embeddings else a.head_values
    weights = (a.final_norm_values + matrix) * storage.outer_weight_bytes
    if table.outputs is not None:
        vectors = samples * (2 * a.hidden_size + 3 * table.outputs) * storage.activation_bytes
        return weights + table.outputs_values * storage.adapter_bytes + vectors
    if not a.head_values:
        return weights + 0 * labelled
    positions = labelled * (2 * a.hidden_size + a.final_norm_statistics) * storage.activation_bytes
    chunk = np.maximum(storage.logit_values // a.vocab_size, 1)
    logits = 2 * 4 * np.minimum(labelled, chunk) * a.vocab_size
    return weights + positions + logits
