"""A live adapted model as plain data: what any route needs to know, and nothing that a route decides."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from lynx_moe.adapter import LynxConfig, LynxLayer, LynxProjection, lynx_layers, lynx_projections, prompt_gate_head
from lynx_moe.errors import ExportError
from lynx_moe.export.code_pictures import picture_data
from lynx_moe.families.ffn import of_the_base
from lynx_moe.families.find import FfnBlock, find_ffn_blocks
from lynx_moe.objectives import Objective
from lynx_moe.objectives.attached import heads_of


@dataclass(frozen=True)
class BlockWeights:
    """The new experts of one block. E experts, D width, G two expert widths (gate over up), H expert width.

    `alpha` is the convex mix's share of the frozen experts, None for other mixes.
    """

    router_ED: Tensor
    gate_up_EGD: Tensor
    down_EDH: Tensor
    alpha: float | None


@dataclass(frozen=True)
class Adapted:
    """A base with one active adapter.

    Attributes:
        base: the wrapped VLM, as PEFT holds it: its modules are the live ones.
        config: the adapter's.
        blocks: wrapped blocks by the name that the module has in the base.
        projections: attention projections with a low-rank delta, named likewise; empty without `attention_rank`.
        gate: "auto", "on" or "off"; an "auto" that was never fitted is "on", as the live model has it.
        heads: those that answers need, by name; none for most. What only training needed is not among them.
        left: such heads that are left behind because somebody said so.
        processor: the base's, where it is at hand: the heads' pictures are told by it.
    """

    base: nn.Module
    adapter_name: str
    config: LynxConfig
    blocks: dict[str, LynxLayer]
    projections: dict[str, LynxProjection]
    gate: str
    heads: dict[str, Objective] = field(default_factory=dict)
    left: dict[str, Objective] = field(default_factory=dict)
    processor: Any = None

    def branch(self, name: str) -> nn.Module:
        return self.blocks[name].lynx_branch[self.adapter_name]

    def delta(self, name: str) -> nn.Module:
        return self.projections[name].lynx_delta[self.adapter_name]

    def base_state(self) -> dict[str, Tensor]:
        """Every tensor of the base under the name it has without the adapter."""
        return {
            ".".join(part for part in name.split(".") if part != "base_layer"): tensor
            for name, tensor in self.base.state_dict().items()
            if not any(part.startswith("lynx_") for part in name.split("."))
        }

    @cached_property
    def pictures(self) -> dict[str, Any] | str:
        """What `picture_data` says of the processor's pictures."""
        return picture_data(self.processor)

    @property
    def text_config(self):
        return self.base.config.get_text_config()

    @property
    def dtype(self) -> torch.dtype:
        return self.base.dtype

    @property
    def router_dtype(self) -> torch.dtype:
        return self.branch(next(iter(self.blocks))).router_ED.dtype

    @property
    def base_name(self) -> str:
        return self.config.base_model_name_or_path or ""

    @property
    def quantised(self) -> bool:
        return getattr(self.base, "hf_quantizer", None) is not None or hasattr(self.base.config, "quantization_config")

    @property
    def rounded_buffers(self) -> list[str]:
        """Tables that no checkpoint holds (rotary frequencies) and that `model.to(bfloat16)` rounded in place."""
        saved = self.base.state_dict().keys()
        return [
            name
            for name, buffer in self.base.named_buffers()
            if name not in saved and buffer.dtype in (torch.bfloat16, torch.float16)
        ]

    @property
    def expert_widths(self) -> dict[str, int]:
        return {name: self.branch(name).down_EDF.shape[-1] for name in self.blocks}

    @property
    def expert_width(self) -> int:
        """The widest expert's; decoders of one FFN width have one."""
        return max(self.expert_widths.values())

    @cached_property
    def places(self) -> dict[str, FfnBlock]:
        """Every feed-forward position of the decoder, wrapped or not, by name."""
        return {block.name: block for block in find_ffn_blocks(self.base)}

    @cached_property
    def ffn_paths(self) -> dict[int, str]:
        """Decoder layer to the name of its feed-forward module, wrapped or not."""
        return {block.layer: name for name, block in self.places.items()}

    @property
    def wrapped_layers(self) -> list[int]:
        return sorted(layer for layer, name in self.ffn_paths.items() if name in self.blocks)

    def layer_of(self, tensor_name: str) -> int | None:
        """The decoder layer whose feed-forward module holds a base tensor; None for all other tensors."""
        return next((layer for layer, path in self.ffn_paths.items() if tensor_name.startswith(f"{path}.")), None)

    def weights_of(self, layer: int) -> BlockWeights | None:
        """New experts of a decoder layer, detached; None where it was not wrapped."""
        name = self.ffn_paths[layer]
        if name not in self.blocks:
            return None
        branch = self.branch(name)
        alpha = branch.alpha_logit.float().sigmoid().item() if self.config.mix == "convex" else None
        return BlockWeights(branch.router_ED.detach(), branch.gate_up_EFD.detach(), branch.down_EDF.detach(), alpha)

    def reads(self, name: str) -> str | None:
        """The module whose input a block's new experts read, where it is not the block itself."""
        return self.places[name].reads if name in self.places else None

    def activation_path(self, name: str) -> str:
        """Where the base has a block's activation, as a dotted path; "" when it has none and SiLU is used."""
        wanted = self.branch(name).activation
        top = self.places[name].inside if self.reads(name) else name
        for owner_name, owner in of_the_base(self.base.get_submodule(top), top):
            for attribute, value in {**vars(owner), **dict(owner.named_children())}.items():
                if type(value) is type(wanted) if isinstance(wanted, nn.Module) else value is wanted:
                    return f"{owner_name}.{attribute}"
        return ""


def read(peft_model, processor=None, *, without_heads: bool = False) -> Adapted:
    """Look at a model; nothing is computed or changed.

    Args:
        peft_model: what `get_peft_model(vlm, LynxConfig(...))` returned.
        processor: the base's.
        without_heads: leave out what answers need beside the adapter.

    Raises:
        ExportError: it has no LynX adapter, or not exactly one is active.
    """
    # Transformers models have adapter methods of the same names; only PEFT's own wrapper can be exported.
    active = list(peft_model.active_adapters) if hasattr(peft_model, "get_base_model") else []
    blocks = lynx_layers(peft_model)
    if not blocks or len(active) != 1:
        raise ExportError(
            f"{type(peft_model).__name__} has {len(blocks)} LynX blocks and active adapters {active}",
            why="an export holds the new experts of exactly one adapter",
            fix="pass what get_peft_model(vlm, LynxConfig()) returned, with one adapter chosen by set_adapter(name); "
            "LoRA and other methods of PEFT fold into the base by its own merge_and_unload()",
        )
    name = active[0]
    config = peft_model.peft_config[name]
    if not isinstance(config, LynxConfig):
        raise ExportError(
            f"the active adapter {name!r} is of type {config.peft_type}",
            why="only LynX adapters are exported here",
            fix="activate the LynX adapter with model.set_adapter(name)",
        )
    if config.modules_to_save:
        raise ExportError(
            f"the adapter {name!r} also retrained {config.modules_to_save}",
            why="an export holds the base's own modules beside the new experts, not retrained copies of them",
            fix="train without modules_to_save, or ship the adapter as PEFT saves it",
        )
    blocks = {path: layer for path, layer in blocks.items() if name in layer.lynx_branch}
    projections = {path: p for path, p in lynx_projections(peft_model).items() if name in p.lynx_delta}
    gate = config.prompt_gate
    if gate == "auto" and not prompt_gate_head(peft_model, name).is_fitted:
        gate = "on"
    heads = {name: head for name, head in heads_of(peft_model).items() if head.serves}
    return Adapted(
        peft_model.get_base_model(),
        name,
        config,
        blocks,
        projections,
        gate,
        heads={} if without_heads else heads,
        left=heads if without_heads else {},
        processor=processor,
    )
