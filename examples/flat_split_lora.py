"""Split federated LoRA as one readable loop over stock transformers and PEFT pieces.

The same mathematics as `wavetune run sflllm`, without wavetune's engine: every client owns a stock PEFT model of its
first blocks, the server owns one of all blocks (and runs those behind a client's cut), activations and gradients cross
by hand, clients are averaged after the local steps. A test asserts that both give the same losses.

    python examples/flat_split_lora.py MODEL_FOLDER        # a Llama-style model in Hugging Face format
"""

# pyright: basic, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportArgumentType=false, reportOperatorIssue=false, reportOptionalOperand=false
# (an example on stock pieces, whose modules are typed as tensors or modules alike)

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

Sample = tuple[list[int], list[int]]  # prompt ids, answer ids
PRECISION = torch.float32
Factors = Mapping[str, tuple[Tensor, Tensor]]  # module name -> A [in, rank], B [rank, out]


class Part:
    """Consecutive blocks of a stock model with LoRA on the query and value projections, and an AdamW optimiser."""

    def __init__(self, folder: str, keep: int, rank: int, alpha: float, initial: Factors, lr: float) -> None:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=PRECISION).eval()
        model.model.layers = model.model.layers[:keep]
        self.norm, model.model.norm = model.model.norm, nn.Identity()
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=["q_proj", "v_proj"])
        self.decoder = get_peft_model(model, config).base_model.model.model
        self.head, self.blocks = model.lm_head, self.decoder.layers
        self.lora = {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}
        self.load(initial, rank)
        trained = [p for p in self.decoder.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(trained, lr=lr, weight_decay=0.01)

    def load(self, factors: Factors, rank: int) -> None:
        """Set the LoRA factors, cut to this part's rank."""
        with torch.no_grad():
            for name, module in self.lora.items():
                module.lora_A["default"].weight.copy_(factors[name][0][:, :rank].T)
                module.lora_B["default"].weight.copy_(factors[name][1][:rank].T)

    def factors(self) -> dict[str, tuple[Tensor, Tensor]]:
        """The LoRA factors as they are now."""
        return {
            name: (
                module.lora_A["default"].weight.detach().T.clone(),
                module.lora_B["default"].weight.detach().T.clone(),
            )
            for name, module in self.lora.items()
        }

    def forward(self, hidden: Tensor, mask: Tensor, first_block: int = 0) -> Tensor:
        """Run the blocks from `first_block` on."""
        self.decoder.layers = self.blocks[first_block:]
        return self.decoder(inputs_embeds=hidden, attention_mask=mask, use_cache=False).last_hidden_state

    def update(self) -> None:
        """One optimiser step."""
        self.optimiser.step()
        self.optimiser.zero_grad()


def pad(batch: Sequence[Sample]) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids, attention mask and labels (-100 where nothing is to be predicted), each `[batch, longest]`."""
    longest = max(len(prompt) + len(answer) for prompt, answer in batch)
    ids, labels = torch.zeros(len(batch), longest, dtype=torch.long), torch.full((len(batch), longest), -100)
    for row, (prompt, answer) in enumerate(batch):
        size = len(prompt) + len(answer)
        ids[row, :size] = torch.tensor([*prompt, *answer])
        labels[row, len(prompt) : size] = torch.tensor(answer)
    mask = torch.arange(longest) < torch.tensor([[len(p) + len(a)] for p, a in batch])
    return ids, mask.long(), labels


def train(
    folder: str,
    batches: Sequence[Sequence[Sequence[Sequence[Sample]]]],
    cuts: Sequence[int],
    num_samples: Sequence[int],
    initial: Factors,
    rank: int,
    alpha: float,
    lr: float,
) -> tuple[list[list[float]], dict[str, tuple[Tensor, Tensor]]]:
    """Train on `batches[round][step][client]`; returns the clients' losses of every step and the global factors."""
    weights = [n / sum(num_samples) for n in num_samples]
    clients = [Part(folder, cut, rank, alpha, initial, lr) for cut in cuts]
    blocks = AutoModelForCausalLM.from_pretrained(folder).config.num_hidden_layers
    server = Part(folder, blocks, rank, alpha, initial, lr)
    current = dict(initial)
    losses = []
    for rounds in batches:
        for step in rounds:
            losses.append([])
            for client, cut, weight, batch in zip(clients, cuts, weights, step, strict=True):
                ids, mask, labels = pad(batch)
                activations = client.forward(client.decoder.embed_tokens(ids), mask)  # the client's blocks
                received = activations.detach().requires_grad_()  # uplink
                hidden = server.norm(server.forward(received, mask, first_block=cut))  # the server's blocks
                logits = server.head(hidden)[:, :-1].flatten(0, 1)
                loss = F.cross_entropy(logits, labels[:, 1:].flatten())
                (weight * loss).backward()  # the server sees the weighted sum
                activations.backward(received.grad / weight)  # downlink: the client sees its own loss
                client.update()
                losses[-1].append(loss.item())
            server.update()
        current = average(server, clients, cuts, weights)
        for part in [*clients, server]:
            part.load(current, rank)
    return losses, current


def average(
    server: Part, clients: Sequence[Part], cuts: Sequence[int], weights: Sequence[float]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean factors of each block: a client's own where it holds the block, the server's in its place where not."""
    of_server, of_clients = server.factors(), [client.factors() for client in clients]
    mixed = {}
    for name in of_server:
        block = int(name.split(".")[2])
        holders = [own[name] if block < cut else of_server[name] for own, cut in zip(of_clients, cuts, strict=True)]
        mixed[name] = tuple(
            sum(w * pair[factor] for w, pair in zip(weights, holders, strict=True)) for factor in (0, 1)
        )
    return mixed


def main(folder: str) -> None:
    """Two clients with other cuts learn two little phrase books."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    books = ["the red house is old", "one two three four five six"], ["a small bird sings", "rivers run to the sea"]

    def sample(text: str) -> Sample:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids[:2], ids[2:]

    batches = [[[[sample(text) for text in book] for book in books] for _ in range(2)] for _ in range(5)]
    config = AutoModelForCausalLM.from_pretrained(folder)
    generator = torch.Generator().manual_seed(0)
    initial = {}
    for name, module in config.named_modules():
        if name.endswith(("q_proj", "v_proj")):
            bound = module.in_features**-0.5
            a = torch.empty(module.in_features, 4).uniform_(-bound, bound, generator=generator)
            initial[name] = (a, torch.zeros(4, module.out_features))
    losses, _ = train(folder, batches, [1, 2], [2, 2], initial, rank=4, alpha=8, lr=5e-3)
    for number, row in enumerate(losses):
        print(f"step {number:2d}  " + "  ".join(f"client {k}: {loss:.4f}" for k, loss in enumerate(row)))


if __name__ == "__main__":
    main(sys.argv[1])
