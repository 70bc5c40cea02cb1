"""Whether the engine runs a model as transformers does, found out by trying: a few short rows through both.

The stock model runs row by row with its own attention; the engine runs the rows as one ragged batch, and once more with
its first blocks elsewhere, as after a cut. What differs is refused, so that no list of families has to be kept.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import cache, partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from wavetune.errors import ModelError, first_line
from wavetune.models.cache import kept, place_of
from wavetune.models.ragged import ATTENTION, ragged_layout
from wavetune.models.structure import AbsentBlock, Checked, Structure, Way, examine, first_of, is_encoder

Engine = Callable[[PreTrainedModel, Structure, Way], Any]
"""What makes a `Backbone` of a stock model without adapters, to be run in one way."""
Between = Callable[[int, Tensor], Tensor]

LENGTHS = (6, 3)
LARGE_VALUES = 10_000_000  # the check of a smaller model is over at once
FILES = ("backbone", "batches", "ragged", "self_check", "structure")  # that a check depends on
TOLERANCE = 1e-4  # of a token's largest value; fp32 with another order of sums stays below a tenth of it


_CHECKED: dict[tuple[str, ...], Checked] = {}


def checked(model: PreTrainedModel, engine: Engine) -> Checked:
    """Structure of a stock model and the way in which the engine runs it, which is the model's attention from now on.

    Once for each config in a process, and once in all for a large model. Raises ModelError if no way gives the stock
    model's numbers.
    """
    key = _key(model)
    if key not in _CHECKED:
        check = partial(_check, model, engine)
        large = sum(p.numel() for p in model.parameters()) > LARGE_VALUES
        _CHECKED[key] = kept(place_of("checked", [_engine(), *key]), check, _written, _read) if large else check()
    found = _CHECKED[key]
    _attend(model, ATTENTION if found.way.packed else "eager")
    for module in model.modules():
        if isinstance(module, AbsentBlock):
            module.yields = found.structure.yields
    return found


def _check(model: PreTrainedModel, engine: Engine) -> Checked:
    _attend(model, "eager")
    try:
        structure = examine(model, _rows(model)[0])
        return Checked(structure, _way(model, structure, engine))
    except ModelError:
        raise
    except Exception as error:  # whatever model code does where parts of it are called alone
        why = f"cannot be run in parts ({first_line(error)})"
        raise ModelError(f"{type(model).__name__} {why}; choose another model") from error


@cache
def _engine() -> str:
    """Changes with whatever a check depends on beside the model."""
    sources = [Path(__file__).with_name(f"{name}.py").read_bytes() for name in FILES]
    return sha256(b"".join(sources)).hexdigest() + transformers.__version__ + torch.__version__


def _written(found: Checked) -> dict[str, Any]:
    return {"structure": asdict(found.structure), "way": found.way._asdict()}


def _read(value: dict[str, Any]) -> Checked:
    structure = value["structure"]
    structure |= {"tail": tuple(structure["tail"]), "linear_maps": frozenset(structure["linear_maps"])}
    return Checked(Structure(**structure), Way(**value["way"]))


def _key(model: PreTrainedModel) -> tuple[str, ...]:
    absent = [name for name, module in model.named_modules() if isinstance(module, AbsentBlock)]
    head = model.get_output_embeddings()
    size = 0 if head is None else next(head.parameters()).numel()
    values = {k: v for k, v in model.config.to_dict().items() if k not in ("_name_or_path", "transformers_version")}
    return type(model).__name__, repr(values), str(size), *absent


def _attend(model: PreTrainedModel, attention: str) -> None:
    """Choose an attention; a model that has only its own keeps it."""
    if model.config._attn_implementation != attention and model._can_set_attn_implementation():
        model.set_attn_implementation(attention)


def _rows(model: PreTrainedModel) -> tuple[Tensor, ...]:
    """A few unlike tokens, none of which has a meaning of its own such as padding."""
    config = model.config.get_text_config()
    named = [v for k, v in (model.config.to_dict() | config.to_dict()).items() if k.endswith("_token_id")]
    special = {token for value in named for token in (value if isinstance(value, list) else [value])}
    plain = [i for i in range(min(config.vocab_size, 500)) if i not in special] or [0]
    ids = torch.tensor([plain[(7 * i + 3) % len(plain)] for i in range(sum(LENGTHS))], device=model.device)
    return ids.split(list(LENGTHS))


@torch.no_grad()
def _way(model: PreTrainedModel, structure: Structure, engine: Engine) -> Way:
    wanted = _stock_pass(model, structure)
    padding = getattr(model.config, "pad_token_id", None)
    starts = [0] if padding is None else [0, padding + 1]  # RoBERTa counts from behind its padding token's position
    failure = "its numbers differ from those of the stock model"
    for way in (*(Way(True, start) for start in starts), Way(False)):
        _attend(model, ATTENTION if way.packed else "eager")
        if way.packed and model.config._attn_implementation != ATTENTION:
            continue
        backbone = engine(model, structure, way)
        if backbone.head is not None:  # the stock model's logits were computed in fp32 at least
            wide = torch.promote_types(backbone.head.weight.dtype, torch.float32)
            backbone.head = replace(backbone.head, weight=backbone.head.weight.to(wide))
        crossing: dict[int, Tensor] = {}
        with backbone.watched():
            try:
                hidden = _pass(backbone, torch.cat(_rows(model)), crossing.setdefault)
            except Exception as error:  # whatever model code does with what it does not expect
                failure = str(error).partition("\n")[0] or type(error).__name__
                continue
            if all(_close(mine, stock) for mine, stock in zip(_outputs(backbone, hidden), wanted, strict=True)):
                return way._replace(cuts=_can_be_cut(backbone, hidden, crossing))
            failure = "its numbers differ from those of the stock model"
    raise ModelError(f"{type(model).__name__} cannot be trained by wavetune's engine ({failure}); choose another model")


def _stock_pass(model: PreTrainedModel, structure: Structure) -> tuple[Tensor, ...]:
    """Hidden states after the last block, and logits or an encoder's last states where there are any."""
    last: list[Tensor] = []
    blocks = model.get_submodule(structure.blocks)
    hook = blocks[-1].register_forward_hook(lambda _m, _a, out: last.append(first_of(out)[0]))  # type: ignore[index]
    try:
        if is_encoder(model.config):
            tops = [model(input_ids=row[None]).last_hidden_state[0] for row in _rows(model)]
        else:
            tops = [model(input_ids=row[None], use_cache=False).logits[0] for row in _rows(model)]
    finally:
        hook.remove()
    return torch.cat(last), torch.cat(tops)


def _outputs(backbone: Any, hidden_ND: Tensor) -> tuple[Tensor, Tensor]:
    top = backbone.final_norm(hidden_ND)
    return hidden_ND, top if backbone.head is None else backbone.head.logits(top)[0]


def _close(found: Tensor, wanted: Tensor) -> bool:
    if found.shape != wanted.shape:
        return False
    error, size = (found - wanted).abs(), wanted.abs()
    return not wanted.numel() or bool((error.amax(-1) <= TOLERANCE * size.amax(-1)).all())


def _pass(backbone: Any, ids_N: Tensor, between: Between, blocks: range | None = None) -> Tensor:
    return backbone.forward(ids_N, ragged_layout(LENGTHS, ids_N.device), between=between, blocks=blocks)


def _can_be_cut(backbone: Any, wanted: Tensor, crossing: Mapping[int, Tensor]) -> bool:
    """Whether blocks need nothing from below a cut but the hidden states that cross it."""
    last = max((i for i, block in enumerate(backbone.blocks) if not isinstance(block, AbsentBlock)), default=0)
    other = torch.cat(_rows(backbone.model)).flip(0)
    for cut in {1, len(backbone.blocks) - 1} & set(range(1, last + 1)):
        above = range(cut, len(backbone.blocks))
        try:
            found = _pass(backbone, other, lambda done, x, cut=cut: crossing[cut] if done == cut else x, above)
        except Exception:  # whatever model code does where a block is missing
            return False
        if not _close(found, wanted):
            return False
    return True
