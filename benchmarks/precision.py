"""What narrow weights of the frozen base change: its loss, its logits and its bytes, beside fp32.

    python benchmarks/precision.py [--model smollm2-135m] [--data DIR_WITH_E2E] [--rows 20]

Without adapters, on the first validation rows: the mean loss of a labelled token in nats, the root of the mean squared
difference of the logits from those of fp32 over their standard deviation there, and the bytes of a parameter.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from wavetune.data.settings import DataSettings, prepare
from wavetune.models.backbone import Backbone, load_backbone, load_tokenizer
from wavetune.models.ragged import ragged_layout
from wavetune.models.resolve import resolve_model


@torch.no_grad()
def logits_of(backbone: Backbone, rows: Sequence[torch.Tensor]) -> torch.Tensor:
    """Logits at all tokens but the last of each row, `[P, V]`."""
    head = backbone.head
    assert head is not None
    found: list[torch.Tensor] = []
    for row in rows:
        hidden = backbone.forward(row[:-1], ragged_layout([len(row) - 1]))
        found.append(head.logits(backbone.final_norm(hidden))[0])
    return torch.cat(found)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line for each precision."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--data", default="restaurants", help="restaurants, or a folder with JSON lines")
    parser.add_argument("--rows", type=int, default=20)
    options = parser.parse_args(arguments)
    folder = resolve_model(options.model).folder
    tokens = prepare(DataSettings(options.data), load_tokenizer(folder), 1, seed=0).validation
    rows = [torch.tensor(tokens.row(i).tolist()) for i in range(min(options.rows, len(tokens)))]
    labelled = torch.cat(
        [torch.arange(1, len(row)) >= int(start) for row, start in zip(rows, tokens.label_start, strict=False)]
    )
    labels = torch.cat([row[1:] for row in rows])[labelled]
    exact: torch.Tensor | None = None
    print(f"{options.model}, {len(rows)} rows, {len(labels)} labelled tokens")
    print(f"{'weights':8s}{'loss':>10s}{'of the logits':>15s}{'of the weights':>16s}{'bytes a parameter':>19s}")
    for precision in ("fp32", "bf16", "int8"):
        backbone = load_backbone(folder, bf16=precision == "bf16", int8=precision == "int8")
        logits = logits_of(backbone, rows)[labelled]
        exact = logits if exact is None else exact
        off = float((logits - exact).square().mean().sqrt() / exact.std())
        held = {p.data_ptr(): p for p in backbone.model.parameters()}.values()
        size = sum(p.nbytes for p in held) / sum(p.numel() for p in held)
        error = f"{100 * backbone.weight_error:.2f} %" if precision == "int8" else ""
        print(f"{precision:8s}{F.cross_entropy(logits, labels):10.4f}{100 * off:13.2f} %{error:>16s}{size:19.2f}")


if __name__ == "__main__":
    main()
