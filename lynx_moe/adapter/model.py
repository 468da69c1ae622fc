"""Where blocks are put: the PEFT tuner that wraps the text decoder's feed-forward positions."""

from __future__ import annotations

import copy
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTuner, check_target_module_exists
from torch import Tensor, nn

from lynx_moe.adapter.base_identity import identify, refuse_another_base
from lynx_moe.adapter.block import LynxLayer, PosingLayer
from lynx_moe.adapter.branch import Branch
from lynx_moe.adapter.config import LynxConfig
from lynx_moe.adapter.gate_context import Asked, Runtime, runtime_of
from lynx_moe.adapter.gated import GatedLayer, cannot_merge
from lynx_moe.adapter.merging import fold, put_in_place
from lynx_moe.adapter.projection import LynxProjection
from lynx_moe.adapter.prompt_gate import PromptGateHead
from lynx_moe.adapter.quantised import (
    floating_dtype,
    keep_trainable,
    number_of_weights,
    say_what_is_read_wrongly,
    say_what_stayed_wide,
)
from lynx_moe.adapter.start import build_branch, build_delta
from lynx_moe.errors import ConfigError, FamilyError, nearest
from lynx_moe.families.attention import attention_projections
from lynx_moe.families.ffn import asks_its_class
from lynx_moe.families.find import FfnBlock, find_decoder_layers, select_layers
from lynx_moe.ops.experts import choose_path


class LynxModel(BaseTuner):
    """PEFT's tuner for `LynxConfig`; made by `get_peft_model`, never by hand.

    Raises:
        FamilyError: the model has no text decoder with feed-forward blocks, or none that matches the config.
        CheckpointError: the config is that of an adapter made for another base, or a quantised base cannot be trained.
    """

    prefix = "lynx_"
    tuner_layer_cls = GatedLayer
    target_module_mapping: dict[str, list[str]] = {}

    def _prepare_adapter_config(self, peft_config: LynxConfig, model_config: dict) -> LynxConfig:
        refuse_another_base(peft_config.base, self.model)
        blocks = wanted_blocks(self.model, peft_config)
        # The caller's config stays as it is; ours names the modules, so that a saved adapter finds the same ones again.
        resolved = copy.copy(peft_config)
        resolved.base = peft_config.base or identify(self.model)
        resolved.target_modules = [block.name for block in blocks] or peft_config.target_modules
        self._blocks = {block.name: block for block in blocks}
        self._projections = set()
        if peft_config.attention_rank:
            self._projections.update(_wanted_projections(self.model, peft_config, blocks))
            resolved.target_modules = resolved.target_modules + sorted(self._projections)
        named = peft_config.target_modules
        if isinstance(named, list) and set(named) == set(resolved.target_modules):
            peft_config.base = resolved.base
            return peft_config  # it names its modules already: nothing else of the caller's has to change
        for name, config in self.peft_config.items():
            if config is peft_config:
                self.peft_config[name] = resolved
        return resolved

    def _create_and_replace(
        self,
        peft_config: LynxConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
        **_: Any,
    ) -> None:
        runtime = self._runtime()
        name = re.sub(r"^(base_model\.model\.)+", "", current_key)
        # By its place in this very model: below another PEFT model, the base's own name is only the end of it.
        is_projection, block = current_key in self._projections, self._blocks.get(current_key)
        if block is not None:
            frozen = block.frozen(self.model)
        else:
            frozen = target.get_base_layer() if isinstance(target, GatedLayer) else target
        build = build_delta if is_projection else build_branch
        new = build(peft_config, frozen, floating_dtype(self.model))
        if isinstance(target, GatedLayer):
            layer = target
            layer.adapters[adapter_name] = new
            if adapter_name in self.active_adapters:
                layer.set_adapter(self.active_adapters)
            else:
                new.requires_grad_(False)
        else:
            kind = PosingLayer if asks_its_class(parent, target_name) else LynxLayer
            layer = (LynxProjection if is_projection else kind)(target, name=name, runtime=runtime)
            layer.adapters[adapter_name] = new
            layer.set_adapter(self.active_adapters)
            setattr(parent, target_name, layer)
            if not is_projection:
                runtime.layers.append(layer)
            if block is not None and block.reads:
                layer.read_from(self.model.get_submodule(block.reads))
        if not is_projection and runtime.head_of(adapter_name) is None:
            width, device = new.router_ED.shape[1], new.router_ED.device
            layer.lynx_prompt_gate[adapter_name] = PromptGateHead(width, device=device)
        runtime.modes[adapter_name] = peft_config.prompt_gate
        runtime.install(self.model)

    def _runtime(self) -> Runtime:
        try:
            return runtime_of(self.model)
        except ConfigError:
            return Runtime()

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        keep_trainable(model)
        if not any(isinstance(m, GatedLayer) for m in model.modules()):
            say_what_stayed_wide(model)
            say_what_is_read_wrongly(model)
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        config = self.peft_config[adapter_name]
        # PEFT shortens long lists of names to the endings that tell them apart in this model. The saved config keeps
        # full names: they mean the same in every model that has them.
        config.target_modules = [
            m.name for m in self.model.modules() if isinstance(m, GatedLayer) and adapter_name in m.adapters
        ]
        if not config.inference_mode and int(os.environ.get("RANK", "0")) == 0:
            print(summary(self.model, config, adapter_name), file=sys.stderr)

    def _check_tied_modules(self, model: nn.Module, peft_config: LynxConfig) -> None:
        """PEFT looks here whether a target is tied to the embedding, and asks models for one that cannot tell theirs.

        Feed-forward blocks and attention projections never are.
        """

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        # Called when unloading. PEFT's own version looks for one weight to copy a device from; an FFN has several.
        setattr(parent, child_name, new_module)

    def _unload_and_optionally_merge(
        self,
        merge: bool = True,
        progressbar: bool = False,
        safe_merge: bool = False,
        adapter_names: list[str] | None = None,
    ) -> nn.Module:
        names = self.active_adapters if adapter_names is None else adapter_names
        folded = fold(self.model, names, check_finite=safe_merge) if merge else {}
        runtime = self._runtime()
        runtime.remove()
        for layer in runtime.layers:
            layer.let_go()
        base = super()._unload_and_optionally_merge(merge=False, progressbar=progressbar)
        put_in_place(base, folded)
        return base

    def merge_adapter(self, *args: Any, **kwargs: Any) -> None:
        raise cannot_merge()

    def add_weighted_adapter(self, *args: Any, **kwargs: Any) -> None:
        raise ConfigError(
            "adapters cannot be added up into a new one",
            why="each has a router of its own, and a weighted sum of two routers sends tokens to experts of neither",
            fix="let several speak at once: model.base_model.set_adapter([first, second])",
        )

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Around `forward` and `generate` of the PEFT model: what the call says of prompts and of `adapter_names`.

        With `adapter_names`, each row is answered by the adapter of that name. The prompts are needed where the base's
        own `generate` does not pass them through its forward.
        """
        runtime, names = self._runtime(), kwargs.get("adapter_names")
        before = runtime.assigned, runtime.asked
        ids = kwargs.get("input_ids", kwargs.get("inputs"))
        if isinstance(ids, Tensor) and ids.ndim == 2 and not ids.is_floating_point():
            runtime.asked = Asked(self.model, ids, kwargs.get("attention_mask"))
        if names is not None:
            runtime.assigned = self._assigned(names)
        try:
            yield
        finally:
            runtime.assigned, runtime.asked = before

    def _assigned(self, names: list[str]) -> dict[str, Tensor]:
        unknown = sorted(set(names) - set(self.peft_config) - {"__base__"})
        if unknown:
            raise ConfigError(
                f"adapter_names holds {unknown}, which is no adapter of this model",
                why=f"adapters are {', '.join(self.peft_config)}, and '__base__' is the base itself",
                fix=f"nearest: {nearest(unknown[0], self.peft_config)}",
            )
        if self.training:
            raise ConfigError(
                "Cannot pass `adapter_names` when the model is in training mode.",
                why="only active adapters are trained, whatever the rows say",
                fix="call model.eval(), or train one adapter after the other",
            )
        return {a: torch.tensor([n == a for n in names]) for a in dict.fromkeys(names) if a != "__base__"}

    def delete_adapter(self, adapter_name: str) -> None:
        super().delete_adapter(adapter_name)
        self._runtime().modes.pop(adapter_name, None)

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        # PEFT's default finds the name only at the end of a key; a branch has parameters below it.
        containers = LynxLayer.adapter_layer_names + LynxLayer.other_param_names + LynxProjection.adapter_layer_names
        for container in containers:
            key = key.replace(f".{container}.{adapter_name}.", f".{container}.")
        return key


def wanted_blocks(model: nn.Module, config: LynxConfig) -> list[FfnBlock]:
    """The decoder's FFN blocks that `config` asks for.

    Empty when the structure cannot be read but the caller gave the full names of modules: then PEFT finds those, and
    each must prove to be a feed-forward block when it is wrapped. Name endings are not enough there, since the vision
    tower's blocks often end alike.

    Raises:
        FamilyError: nothing matches.
    """
    try:
        num_layers, blocks = find_decoder_layers(model)
    except FamilyError:
        names = config.target_modules
        if isinstance(names, list) and names and set(names) <= {name for name, _ in model.named_modules()}:
            return []
        raise
    if config.target_modules:
        wanted = [b for b in blocks if check_target_module_exists(config, b.name)]
        asked = f"target_modules={config.target_modules!r}"
    else:
        chosen = select_layers([b.layer for b in blocks], num_layers, config.layers)
        # PEFT leaves out what exclude_modules matches; ask it, so that "nothing is left" is said here.
        every = copy.copy(config)
        every.target_modules = [b.name for b in blocks]
        wanted = [b for b in blocks if b.layer in chosen and check_target_module_exists(every, b.name)]
        asked = f"layers={config.layers!r}"
    if not wanted:
        names = [b.name for b in blocks]
        asked_for = config.target_modules or names[0]
        close = nearest(asked_for if isinstance(asked_for, str) else asked_for[0], names)
        excluded = f" without exclude_modules={config.exclude_modules!r}" if config.exclude_modules else ""
        raise FamilyError(
            f"no feed-forward block of {type(model).__name__}'s text decoder matches {asked}{excluded}",
            why=f"the decoder has {num_layers} layers, with blocks like {close[0]}; other modules cannot be wrapped",
            fix="leave target_modules=None to let the structure decide, or name some of those blocks",
        )
    return wanted


def _wanted_projections(model: nn.Module, config: LynxConfig, blocks: list[FfnBlock]) -> list[str]:
    """The attention projections from the lowest of `blocks` up that `config` does not exclude.

    Raises:
        FamilyError: there are none, so `attention_rank` would do nothing.
    """
    found = attention_projections(model, blocks)
    every = copy.copy(config)
    every.target_modules = found
    wanted = [name for name in found if check_target_module_exists(every, name)]
    if not wanted:
        raise FamilyError(
            f"attention_rank={config.attention_rank} finds no attention projection in {type(model).__name__}",
            why=f"exclude_modules={config.exclude_modules!r} leaves none of {found[:4]}"
            if found
            else "no layer from the lowest wrapped one up has attention with linear maps",
            fix="use attention_rank=0, or choose lower layers",
        )
    return wanted


def summary(model: nn.Module, config: LynxConfig, adapter_name: str) -> str:
    """One line: what was wrapped, with how much."""
    layers = [l for l in runtime_of(model).layers if adapter_name in l.lynx_branch]
    branches = [l.lynx_branch[adapter_name] for l in layers]
    deltas = [m for m in model.modules() if isinstance(m, LynxProjection) and adapter_name in m.lynx_delta]
    trainable = sum(
        p.numel() for new in (*branches, *(m.lynx_delta[adapter_name] for m in deltas)) for p in new.parameters()
    )
    total = sum(map(number_of_weights, model.parameters()))
    widths = sorted({b.down_EDF.shape[-1] for b in branches})
    first, last = layers[0].name, layers[-1].name
    return (
        f"LynX adapter {adapter_name!r}: {len(layers)} blocks ({first} ... {last}), "
        f"{config.num_experts} experts x {'/'.join(map(str, widths))} wide, top-{config.top_k}, {config.mix}, "
        f"{f'rank {config.attention_rank} on {len(deltas)} attention projections, ' if deltas else ''}"
        f"prompt gate {config.prompt_gate}; {trainable:,} new parameters ({100 * trainable / total:.1f}%); "
        f"experts computed {_paths(branches[0])}"
    )


def _paths(branch: Branch) -> str:
    """By which path, in each number type that may be computed in, for a token alone and for many."""
    num_experts, width, hidden = branch.down_EDF.shape
    shape = {"num_experts": num_experts, "top_k": branch.top_k, "widths": (width, hidden)}
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        paths = [choose_path(branch.down_EDF.device, dtype, rows=t * branch.top_k, **shape) for t in (1, 4096)]
        found[str(dtype).removeprefix("torch.")] = " or ".join(dict.fromkeys(paths))
    return ", ".join(f"{path} in {dtype}" for dtype, path in found.items())
