"""A stock Hugging Face decoder or encoder, frozen, seen as embedding, blocks, final norm and head, with adapters on its
target modules.

No model code is rewritten: blocks run as transformers wrote them. What is exchanged are the attention kernel (ragged,
where the model lets it be chosen), the target linear maps (stacked adapters) and, in bf16 and int8, the other linear
maps of the blocks (narrow weights, fp32 activations). An encoder attends in both directions and has no output layer.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import copy_context
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from wavetune.costs.adapter import AdapterSite
from wavetune.costs.operations import named
from wavetune.errors import ModelError
from wavetune.models.adapter import ModelAdapter
from wavetune.models.batches import PackedRow, PaddedRows
from wavetune.models.behind import ModuleMaps, StackedAdapter, map_of
from wavetune.models.blocks import serve, shapes_of
from wavetune.models.classifier import Pooling, head_of, pool
from wavetune.models.double import compute_in_double
from wavetune.models.fused import fuse
from wavetune.models.key_prefix import KEYS, Prefixes, Watching
from wavetune.models.lora import ActiveAdapters, AdapterBank, FrozenLinear, StackedLoraLinear, lora_matrices
from wavetune.models.loss import frozen_head_cross_entropy, frozen_head_divergence, frozen_head_log_probs
from wavetune.models.narrow import computing_wide, stored_in_bf16, widen_others
from wavetune.models.output_layer import OutputLayer
from wavetune.models.products import in_steps, relative_error
from wavetune.models.ragged import RaggedLayout, ragged_layout
from wavetune.models.self_check import checked
from wavetune.models.soft_prompt import PROMPT, clients_of_samples, with_prompts
from wavetune.models.stock import load_stock_model, load_tokenizer
from wavetune.models.structure import LINEAR, AbsentBlock, Structure, Way, first_of, is_encoder, text_model
from wavetune.models.targets import lora_targets, refuse_missing

Between = Callable[[int, Tensor], Tensor]  # (blocks done, hidden [N, D]) -> hidden: what a cut does between two blocks


@dataclass
class Backbone:
    """A frozen decoder, or encoder, whose blocks can be interrupted by a cut.

    `head` is the output layer over the vocabulary, None for an encoder. Activations and adapters are of `dtype`;
    the stock model's maps store their weights `transposed`, `[in, out]`, if they are GPT-2's. With `recompute` a block
    keeps its input alone for the backward pass, which computes the rest again. `attended` are the attention modules
    that read prefixes.
    """

    model: PreTrainedModel
    structure: Structure
    way: Way
    blocks: nn.ModuleList
    final_norm: nn.Module
    head: OutputLayer | None
    sites: tuple[AdapterSite, ...]
    active: ActiveAdapters
    dtype: torch.dtype
    transposed: bool = False
    recompute: bool = False
    weight_error: float = 0.0  # of weights in int8: root of the squares of what they are off over those of the weights
    attended: dict[nn.Module, AdapterSite] = field(default_factory=dict[nn.Module, AdapterSite])
    _pass: _Pass | None = None

    @classmethod
    def unadapted(cls, model: PreTrainedModel, structure: Structure, way: Way) -> Backbone:
        """The stock model as it is, its blocks and norm still in place."""
        tail = [model.get_submodule(path) for path in structure.tail]
        blocks: Any = model.get_submodule(structure.blocks)
        head = None
        if structure.head is not None:
            linear: Any = model.get_submodule(structure.head)
            head = OutputLayer(linear.weight, linear.bias, structure.scale, structure.softcap)
        norm = tail[0] if len(tail) == 1 else nn.Sequential(*tail)
        return cls(model, structure, way, blocks, norm, head, (), ActiveAdapters(), model.dtype)

    def path_in_block(self, site: AdapterSite) -> str:
        """Path of a site's module within its block, such as `self_attn.q_proj`."""
        return site.name.removeprefix(f"{self.structure.blocks}.{site.layer}.")

    @property
    def num_layers(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    @property
    def width(self) -> int:
        """Width of the residual stream, D."""
        return self.model.config.get_text_config().hidden_size

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    @property
    def exact(self) -> bool:
        """Whether products are in the precision of all else, so that a token's numbers are the same, to rounding there,
        whatever it goes through the model with.
        """
        head = [] if self.head is None else [self.head.weight]
        return all(p.dtype != torch.bfloat16 for p in [*self.blocks.parameters(), *head])

    @property
    def max_tokens(self) -> int | None:
        """Longest sample that the model takes, whatever else is in a pass, None if its config names no limit."""
        positions = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        limits = [limit for limit in (positions, self.one_rotation) if limit is not None]
        return min(limits) - self.way.first_position if limits else None

    @property
    def one_rotation(self) -> int | None:
        """Tokens up to which rotary embeddings turn a sample alike, whatever else is in a pass; None: all.

        Those of longrope turn all samples of a pass otherwise once the longest one of them has more.
        """
        rope = getattr(self.model.config.get_text_config(), "rope_parameters", None) or {}
        sets = [rope, *(part for part in rope.values() if isinstance(part, dict))]  # one, or one a type of layers
        limits = [part.get("original_max_position_embeddings") for part in sets if part.get("rope_type") == "longrope"]
        return min((limit for limit in limits if limit), default=None)

    def require_cuts(self) -> None:
        """Raise ModelError where the model cannot be split."""
        if not self.way.cuts:
            raise ModelError(
                f"{type(self.model).__name__} cannot be split: its upper blocks read more than the hidden states that"
                " cross a cut; use a recipe without a cut, such as fedavg_lora"
            )

    def key_tokens(self, bank: AdapterBank | None) -> int:
        """Positions that a bank's prefixes take before every sample; the layout of a pass has room for them."""
        names = {site.name for site in self.attended.values()}
        site = next((site for site in (bank.sites if bank else ()) if site.name in names), None)
        return 0 if site is None else next(m.rows(0) for m in site.matrices if m.name == KEYS)

    def forward(
        self,
        input_ids_N: Tensor,
        layout: RaggedLayout,
        bank: AdapterBank | None = None,
        clients: Sequence[int] = (),
        tokens: Sequence[int] = (),
        between: Between | None = None,
        blocks: range | None = None,
    ) -> Tensor:
        """Hidden states after the last block, before the final norm. `[N]` to `[N, D]`.

        `clients` are the cohort positions whose samples stand in the batch, `tokens` how many tokens each has.
        `between` is called after every block. Other blocks than `blocks` (None: none) let hidden states through as they
        are. Raises ModelError if `between` is given and the model cannot be cut.
        """
        if between is not None:
            self.require_cuts()
        prefixed = bank if self.key_tokens(bank) else None
        asked = bank and (self._prompt(bank) or prefixed)
        owners = clients_of_samples(clients, tokens, layout.lengths) if asked else []
        before = None if prefixed is None else Prefixes(prefixed, self.attended, owners)
        batch = PackedRow(layout, self.way.first_position, before) if self.way.packed else PaddedRows(layout)
        self.active.use(bank, clients, batch.tokens(tokens))
        self._pass = _Pass(batch, between, layout.lengths, owners)
        options = {} if is_encoder(self.model.config) else {"use_cache": False}
        try:
            with batch.running(), self._without_others(blocks):
                text_model(self.model)(**batch.inputs(input_ids_N), **options)
            assert self._pass.last is not None
            return self._pass.last
        finally:
            self._pass = None

    def pooled(self, hidden_ND: Tensor, lengths: Sequence[int], pooling: Pooling | None = None) -> Tensor:
        """One normed vector for each sample of a pass, `[N, D]` to `[S, D]`.

        By default the mean over an encoder's tokens, and a decoder's last token, which alone has seen all others.
        """
        pooling = pooling or default_pooling(self.model)
        if pooling == "mean":
            return pool(self.final_norm(hidden_ND), lengths, pooling)
        return self.final_norm(pool(hidden_ND, lengths, pooling))

    def labelled_loss(
        self, hidden_ND: Tensor, index_P: Tensor, labels_P: Tensor, weight_P: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Weighted sum of next-token losses at the labelled positions alone, and each one's loss in nats."""
        return frozen_head_cross_entropy(self._normed(hidden_ND, index_P), self._output_layer(), labels_P, weight_P)

    def labelled_log_probs(self, hidden_ND: Tensor, index_P: Tensor, labels_P: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability of each label, and entropy of each position's distribution, in nats; both differentiable."""
        return frozen_head_log_probs(self._normed(hidden_ND, index_P), self._output_layer(), labels_P, 1.0)

    def labelled_divergence(
        self, hidden_ND: Tensor, teacher_ND: Tensor, index_P: Tensor, weight_P: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        """Weighted sum of divergences from what other hidden states give at the labelled positions, and each one's."""
        student_PD, teacher_PD = self._normed(hidden_ND, index_P), self._normed(teacher_ND, index_P)
        return frozen_head_divergence(student_PD, teacher_PD, self._output_layer(), weight_P, temperature)

    def _normed(self, hidden_ND: Tensor, index_P: Tensor) -> Tensor:
        return self.final_norm(hidden_ND.index_select(0, index_P))

    def _output_layer(self) -> OutputLayer:
        if self.head is None:
            raise ModelError(f"{type(self.model).__name__} is an encoder and predicts no next token; choose a decoder")
        return self.head

    @contextmanager
    def watched(self) -> Iterator[None]:
        """While in this block the blocks of an unadapted model tell what they yield, as they do once it is prepared."""
        hooks = [block.register_forward_hook(self._after_block(i + 1)) for i, block in enumerate(self.blocks)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @contextmanager
    def _without_others(self, blocks: range | None) -> Iterator[None]:
        """Within this context other blocks than these stand aside; None: all are run."""
        kept = {i: block for i, block in enumerate(self.blocks) if blocks is not None and i not in blocks}
        for index, block in kept.items():
            self.blocks[index] = AbsentBlock(block, self.structure.yields)
            self.blocks[index].register_forward_hook(self._after_block(index + 1))
        try:
            yield
        finally:
            for index, block in kept.items():
                self.blocks[index] = block

    def recomputed(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """A block's forward that, where told so, the backward pass runs again with the same samples and adapters."""

        def run(*args: Any, **named: Any) -> Any:
            if not (self.recompute and torch.is_grad_enabled()):
                return forward(*args, **named)
            now, acting = copy_context(), copy(self.active)

            def again(*args: Any) -> Any:
                later = copy(self.active)
                vars(self.active).update(vars(acting))
                try:
                    return now.run(forward, *args, **named)
                finally:
                    vars(self.active).update(vars(later))

            return checkpoint(again, *args, use_reentrant=False, preserve_rng_state=False)

        return run

    def _prompt(self, bank: AdapterBank) -> AdapterSite | None:
        """Where a bank has a soft prompt, and the first block is here."""
        if isinstance(self.blocks[0], AbsentBlock):
            return None
        return next((site for site in bank.sites if site.name == PROMPT), None)

    def after_embedding(self, _module: nn.Module, _args: object, output: Tensor) -> Tensor:
        """Hook of the embedding: the active bank's soft prompts before the samples of a pass."""
        now, bank = self._pass, self.active.bank
        if now is None or bank is None or (site := self._prompt(bank)) is None:
            return output
        embedded_ND = now.batch.read(output)
        return now.batch.write(with_prompts(embedded_ND, now.lengths, bank, site, now.client_S)).to(output.dtype)

    def _after_block(self, done: int) -> Callable[..., Any]:
        def hook(_module: nn.Module, _args: object, output: Tensor | tuple[Any, ...]) -> object:
            now = self._pass
            if now is None or (now.between is None and done < self.num_layers):
                return None
            hidden_ND = now.batch.read(first_of(output))
            if now.between is None:
                now.last = hidden_ND
                return None
            now.last = now.between(done, hidden_ND)
            changed = now.batch.write(now.last)
            return changed if isinstance(output, Tensor) else (changed, *output[1:])

        return hook


@dataclass
class _Pass:
    """What is going on while a model runs, and the hidden states after its last block."""

    batch: PackedRow | PaddedRows
    between: Between | None
    lengths: Sequence[int]  # of the samples
    client_S: Sequence[int]  # whose they are, where clients have soft prompts
    last: Tensor | None = None


def load_backbone(
    folder: Path | str,
    targets: Sequence[str] | str | None = None,
    bf16: bool = False,
    device: torch.device | str = "cpu",
    adapters: Sequence[ModelAdapter] = (),
    outputs: int | None = None,
    dtype: torch.dtype = torch.float32,
    make: Callable[[PreTrainedModel], None] | None = None,
    int8: bool = False,
) -> Backbone:
    """Load a decoder or an encoder from a folder and prepare it. Raises ModelError where the engine cannot run it.

    `targets` are the names of the linear maps that carry LoRA, `all-linear`, or PEFT's default for the family if None.
    `adapters` are the kinds beside LoRA; `outputs` asks for a head on pooled samples with so many of them: the classes,
    or one reward. All is computed in `dtype`, fp32 or fp64, but for the products with bf16 weights. `make` first turns
    the stock model into another. With `int8` the maps of the blocks are in whole steps, and all else is fp32.
    """
    stock = load_stock_model(folder, opened_as(folder, dtype, bf16 or int8), predicts=outputs is None)
    if make is not None:
        make(stock)
    return prepare_backbone(stock, targets, bf16, device, adapters, outputs, int8)


def opened_as(folder: Path | str, dtype: torch.dtype, narrow: bool) -> torch.dtype:
    """The precision in which weights are opened for a run: that of the file if it is bf16 and they become `narrow`."""
    return torch.bfloat16 if narrow and dtype == torch.float32 and stored_in_bf16(folder) else dtype


def default_pooling(model: PreTrainedModel) -> Pooling:
    """How a sample becomes one vector unless told otherwise."""
    return "mean" if is_encoder(model.config) else "last"


def prepare_backbone(
    model: PreTrainedModel,
    targets: Sequence[str] | str | None,
    bf16: bool = False,
    device: torch.device | str = "cpu",
    adapters: Sequence[ModelAdapter] = (),
    outputs: int | None = None,
    int8: bool = False,
) -> Backbone:
    """Freeze a stock model, check that the engine runs it as it is, and put adapters on it; see `load_backbone`.

    It computes in the precision in which it was loaded, and in fp32 where that was bf16.
    """
    model.requires_grad_(False).eval()
    narrow = model.dtype == torch.bfloat16
    with computing_wide(model) if narrow else nullcontext():
        structure, way = checked(model, Backbone.unadapted)
    if narrow:
        embedding: Any = model.get_input_embeddings()
        widen_others(model, {*_matrices(model, structure, head=True), id(embedding.weight)})
    elif bf16 or int8:
        _leave_file(model, _matrices(model, structure, head=bf16))
    backbone = Backbone.unadapted(model, structure, way)
    if narrow:
        backbone.dtype = torch.float32
    width = model.config.get_text_config().hidden_size
    shapes = shapes_of(backbone.blocks, bf16 and not int8, width)
    if model.dtype == torch.float64:
        compute_in_double(*backbone.blocks, backbone.final_norm)
    else:
        fuse(nn.ModuleList([*backbone.blocks, backbone.final_norm]), width)
    sites = _install(backbone, targets, torch.int8 if int8 else torch.bfloat16 if bf16 else None)
    for adapter in adapters:
        sites += _install_behind(backbone, adapter, width)
    for adapter in adapters:
        sites += _install_attended(backbone, adapter) if adapter.key_tokens else ()
    if outputs is not None:
        sites += (head_of(width, outputs, backbone.num_layers - 1),)
    prompts = [AdapterSite(PROMPT, 0, one.name, tuple(one.before(width))) for one in adapters if one.prompt_tokens]
    backbone.sites = (*prompts, *sites)
    if bf16 and backbone.head is not None:
        backbone.head.weight.data = backbone.head.weight.data.to(torch.bfloat16)
    if int8 and backbone.head is not None:
        backbone.head.weight.data = backbone.head.weight.data.float()
    if bf16 or narrow:
        model.get_input_embeddings().register_forward_hook(lambda _m, _a, out: out.float())
    if prompts:
        model.get_input_embeddings().register_forward_hook(backbone.after_embedding)
    nn.Module.to(model, device)
    backbone.final_norm.to(device)
    serve(backbone.blocks, shapes, lambda: backbone.recompute)
    for index, block in enumerate(backbone.blocks):
        block.forward = backbone.recomputed(block.forward)
        block.register_forward_hook(backbone._after_block(index + 1))
    return backbone


def _matrices(model: PreTrainedModel, structure: Structure, head: bool) -> set[int]:
    """Ids of the weights of the blocks' maps and, if it is asked for, of the output layer."""
    blocks: Any = model.get_submodule(structure.blocks)
    maps = [m for block in blocks for path, m in block.named_modules() if path in structure.linear_maps]
    heads = [model.get_submodule(structure.head)] if head and structure.head is not None else []
    modules: list[Any] = [*(m for m in maps if isinstance(m, LINEAR)), *heads]
    return {id(module.weight) for module in modules}


def _leave_file(model: PreTrainedModel, but: Container[int]) -> None:
    """Copy weights that were opened mapped but those with these ids, which become narrow, if the others are the smaller
    part: any of them keeps the pages of its whole file.
    """
    own = list(model.parameters())
    stay = [p for p in own if id(p) not in but]
    if 2 * sum(p.numel() for p in stay) < sum(p.numel() for p in own):
        for p in stay:
            p.data = p.data.clone()


def _install(
    backbone: Backbone, targets: Sequence[str] | str | None, stored: torch.dtype | None
) -> tuple[AdapterSite, ...]:
    """LoRA on the targets and, where weights are `stored` in bf16 or int8, these in all linear maps of the blocks that
    all tokens go through.
    """
    model, maps = backbone.model, backbone.structure.linear_maps
    # named by where they are, as a list of the modules would keep all that are exchanged until the end
    names = {id(module): name for name, module in model.named_modules()}
    chosen = lora_targets(model, maps, targets)
    sites, errors = list[AdapterSite](), list[tuple[float, float]]()
    for layer, block in enumerate(backbone.blocks):
        within = names[id(block)]
        for path in [path for path, module in block.named_modules() if isinstance(module, LINEAR)]:
            module, name = block.get_submodule(path), f"{within}.{path}"
            if path not in maps or not isinstance(module, LINEAR):
                continue
            adapted = named(name, chosen)
            if not adapted and stored is None:
                continue
            frozen = _frozen(module, stored, backbone.dtype)
            if frozen.step_O is not None:
                errors.append(relative_error(_weight(module), frozen.weight, frozen.step_O))
            backbone.transposed |= isinstance(module, Conv1D)
            if adapted:
                factors = lora_matrices(frozen.weight.shape[1], frozen.weight.shape[0])
                site = AdapterSite(name, layer, "lora", factors, "B")
                frozen = StackedLoraLinear(frozen, site, backbone.active)
                sites.append(site)
            block.set_submodule(path, frozen)
    if stored == torch.int8:
        if not errors:
            kind = type(model).__name__
            raise ModelError(f"{kind} has no linear map that int8 would keep; use run.precision=bf16")
        off, of_all = map(sum, zip(*errors, strict=True))
        backbone.weight_error = (off / of_all) ** 0.5
    if any(isinstance(block, AbsentBlock) for block in backbone.blocks):
        return tuple(sites)  # a target may be in the blocks that are elsewhere
    for target in chosen:
        if not any(named(site.name, [target]) for site in sites):
            refuse_missing(model, {path.rsplit(".", 1)[-1] for path in maps}, target)
    return tuple(sites)


def _install_behind(backbone: Backbone, adapter: ModelAdapter, width: int) -> tuple[AdapterSite, ...]:
    names = {module: name for name, module in backbone.model.named_modules()}
    sites: list[AdapterSite] = []
    for layer, block in enumerate(backbone.blocks):
        if isinstance(block, AbsentBlock):
            continue
        for one in adapter.behind(ModuleMaps(block, backbone.structure.linear_maps, width), width):
            module = map_of(block, one.map, adapter)
            site = AdapterSite(f"{names[module]}:{adapter.name}", layer, adapter.name, one.matrices, one.switch)
            module.register_forward_hook(StackedAdapter(adapter, site, backbone.active))
            sites.append(site)
    return tuple(sites)


def _install_attended(backbone: Backbone, adapter: ModelAdapter) -> tuple[AdapterSite, ...]:
    """Prefixes in the attention of every block that is here. Raises ModelError where they cannot be read."""
    kind = type(backbone.model).__name__
    if not backbone.way.packed:
        raise ModelError(f"{kind} has an attention of its own, which reads no prefixes; choose another kind of adapter")
    layout = Watching.one_token(backbone.device)
    with torch.no_grad(), backbone.watched():
        backbone.forward(torch.ones(1, dtype=torch.long, device=backbone.device), layout)
    names, found = {module: name for name, module in backbone.model.named_modules()}, list[AdapterSite]()
    for layer, block in enumerate(backbone.blocks):
        for module in block.modules():
            if module in layout.widths:
                matrices = tuple(adapter.attended(ModuleMaps(block, (), backbone.width, *layout.widths[module])))
                found.append(AdapterSite(f"{names[module]}:{adapter.name}", layer, adapter.name, matrices))
                backbone.attended[module] = found[-1]
    here = [layer for layer, block in enumerate(backbone.blocks) if not isinstance(block, AbsentBlock)]
    if [site.layer for site in found] != here or len({site.matrices for site in found}) > 1:
        raise ModelError(f"{kind} has no attention of one width in each block; choose another kind of adapter")
    return tuple(found)


def _weight(module: nn.Linear | Conv1D) -> Tensor:
    weight = module.weight.data
    return weight.t() if isinstance(module, Conv1D) else weight


def _frozen(module: nn.Linear | Conv1D, stored: torch.dtype | None, dtype: torch.dtype) -> FrozenLinear:
    weight = _weight(module)
    bias: Tensor | None = None if module.bias is None else module.bias.data
    if stored == torch.int8:
        whole, step_O = in_steps(weight)
        return FrozenLinear(whole, None if bias is None else bias.float(), dtype, step_O)
    if stored == torch.bfloat16:
        weight, bias = weight.to(torch.bfloat16).contiguous(), None if bias is None else bias.to(torch.bfloat16)
    return FrozenLinear(weight, bias, dtype)


__all__ = [
    "Backbone",
    "Between",
    "is_encoder",
    "load_backbone",
    "load_stock_model",
    "load_tokenizer",
    "prepare_backbone",
    "ragged_layout",
]
