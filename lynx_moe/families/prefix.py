"""Running a model from one of its decoder layers on, with states that were computed earlier.

Nothing of any family is written anew here. The model's own forward runs whole, without the pictures; decoder layers
below the boundary hand on what they are given, and in front of the boundary the hidden states are exchanged:

    embedding ── layer 0 ── .. ── layer k-1 ──┬── layer k ── .. ── logits       ordinary
    embedding ──────────────────── states ────┴── layer k ── .. ── logits       replaying
    embedding ── layer 0 ── .. ── layer k-1 ──┬──────────────── .. ── -         capturing
    embedding ──────────────────────────────────────── states ── .. ── logits   behind all layers

Where only the FFN of layer k is trained, its attention is frozen too. Most layers add both to one residual stream:

    h' = h + attention(h)        y = h' + ffn(h')

There the boundary lies in front of the FFN. With an FFN that says zero the layer hands out h', and given h', with an
attention that says zero, it goes on from there.

Masks, rotary positions and norms therefore are the family's own. It holds where the picture reaches the layers above
only through those states, and where a layer adds up so, which `Boundary.check` finds out by trying.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lynx_moe.errors import FamilyError
from lynx_moe.families.find import FfnBlock, find_ffn_blocks

# What a model raises that cannot be run in a way it was not written for.
NOT_RUN = (ValueError, TypeError, RuntimeError, AttributeError, KeyError, IndexError)
OFF = "trainer.prefix_cache=off trains this base without a cache"


class States(NamedTuple):
    """Hidden states in front of the boundary, and where they stand in for the model's own.

    Attributes:
        value_BLD: the states. there_BL: bool, False where the state that the embedding gives is to stay.
    """

    value_BLD: Tensor
    there_BL: Tensor

    def of_rows(self, rows_B: Tensor) -> States:
        """Those of some rows of the batch, by a mask or by numbers."""
        return States(self.value_BLD[rows_B], self.there_BL[rows_B])


class Boundary:
    """The place in a model below which everything is frozen.

    Args:
        model: the VLM itself, an adapter inside; what requires gradients tells where the frozen part ends.
        call: what is called for a forward; None is the model itself, else what a trainer has wrapped it with.
        at_embedding: put it in front of the first decoder layer, so that only the picture's side lies below.

    Attributes:
        layer: index of the first decoder layer above it; 0 when only the embedding and the picture's side lie below.
        source: states to run from; None runs the model in the ordinary way. With activation checkpointing it must stay
            until the backward is done.
        behind: states behind the last layer to run from instead; no layer runs then.
        forms: what each decoder layer returns: 0 a tensor, n a tuple of n, the states first. `check` fills it.
        at_ffn: the same of the parts of the lowest trained layer, by name, where the boundary lies in front of its FFN;
            empty where it lies in front of the layer. `check` fills it too.

    Raises:
        FamilyError: something below the decoder's layers is trained, or there is no telling where those are.
    """

    def __init__(self, model: nn.Module, call: Callable | None = None, *, at_embedding: bool = False):
        self.model = model
        self.call = call or model
        blocks = find_ffn_blocks(model)
        name = blocks[0].inside.rpartition(".")[0]
        self.layers: nn.ModuleList = model.get_submodule(name)
        trained = [i for i, layer in enumerate(self.layers) if any(p.requires_grad for p in layer.parameters())]
        outside = [n for n, p in model.named_parameters() if p.requires_grad and not n.startswith(f"{name}.")]
        if outside or not trained:
            raise FamilyError(
                f"{outside[0] if outside else 'no decoder layer'} of {type(model).__name__} is trained",
                why="a frozen prefix is what lies below the lowest trained decoder layer, all of it frozen",
                fix=f"train decoder layers only, or {OFF}",
            )
        self.layer = 0 if at_embedding else min(trained)
        self.source: States | None = None
        self.behind: States | None = None
        self.forms: list[int] = []
        self.at_ffn: dict[str, int] = {}
        # In front of the first layer the states of the picture alone are enough, and text keeps its embedding.
        self._parts = self._of_two(blocks) if self.layer else {}
        self._capturing = False
        self._seen: Tensor | None = None
        self._last: Tensor | None = None
        self._hook = self.layers[self.layer].register_forward_pre_hook(self._in_front, with_kwargs=True)
        for index, layer in enumerate(self.layers):
            layer.forward = self._skipping(index, layer.forward)
        for part_name, (part, is_ffn) in self._parts.items():
            part.forward = self._silent(part_name, is_ffn, part.forward)

    def remove(self) -> None:
        """The model as it was."""
        self._hook.remove()
        for module in (*self.layers, *(part for part, _ in self._parts.values())):
            module.forward = module.forward.__wrapped__
            if getattr(module.forward, "__func__", None) is type(module).forward:
                del module.forward

    def _of_two(self, blocks: Sequence[FfnBlock]) -> dict[str, tuple[nn.Module, bool]]:
        """Name to module, and whether it is the FFN, of what the lowest trained layer adds up; empty where more of the
        layer is trained than a whole FFN.
        """
        layer = self.layers[self.layer]
        own = next((block for block in blocks if block.layer == self.layer and not block.reads), None)
        ffn = own.name[len(own.inside) + 1 :] if own else "."
        if any(p.requires_grad and not n.startswith(f"{ffn}.") for n, p in layer.named_parameters()):
            return {}
        # Norms have no matrix. Whatever else has one mixes tokens.
        mixers = {n: m for n, m in layer.named_children() if any(p.ndim > 1 for p in m.parameters())}
        if ffn not in mixers or len(mixers) < 2:
            return {}
        return {name: (module, name == ffn) for name, module in mixers.items()}

    def capture(self, inputs: dict[str, Any]) -> Tensor:
        """(B, L, D) the states in front of the boundary for these inputs, pictures included; what lies above rests."""
        self._capturing, self.source = True, None
        try:
            with torch.no_grad():
                self.call(**inputs)
            return self._taken()
        finally:
            self._capturing = False

    @contextmanager
    def rows(self, rows_B: Tensor) -> Iterator[None]:
        """Inside, the model is called with these rows of the batch only."""
        whole = self.source
        self.source = whole and whole.of_rows(rows_B)
        try:
            yield
        finally:
            self.source = whole

    def check(self, inputs: dict[str, Any], without: dict[str, Any], there_BL: Tensor) -> Tensor:
        """Tries on one batch whether replaying gives the ordinary logits.

        Bit for bit in float32 on a CPU; elsewhere kernels may add up in another order each time, and differences up
        to a hundredth of the largest logit pass.

        Args:
            inputs: the model's, with pictures. without: the same without what only the picture's side reads.
            there_BL: which positions the states stand in for.

        Returns:
            (B, L, D) the states in front of the boundary.

        Raises:
            FamilyError: they differ, or the model cannot be run so: with why, and what helps.
        """
        parts: dict[str, int] = {}
        hooks = [layer.register_forward_hook(self._note_form) for layer in self.layers]
        for name, (part, _) in self._parts.items():
            hooks.append(
                part.register_forward_hook(lambda _, __, output, name=name: parts.update({name: _form(output)}))
            )
        self.forms, self.at_ffn, self.source = [], {}, None
        try:
            ordinary = self._logits(inputs)
        finally:
            for hook in hooks:
                hook.remove()
        states_BLD = self._taken()
        if len(self.forms) != len(self.layers) or states_BLD.shape[:2] != there_BL.shape:
            raise self._refused("its decoder layers are not called once each with states of (rows, tokens, width)")
        with torch.random.fork_rng():
            torch.manual_seed(1)
            if _apart(self.capture(inputs), states_BLD):
                raise self._refused("its frozen part gives other numbers each time (dropout, for one)")
        behind = States(self.last_states(), torch.ones_like(there_BL))
        if parts and parts.keys() == self._parts.keys():
            states_BLD = self._from_ffn(parts, inputs, without, States(states_BLD, there_BL), ordinary)
        try:
            self.source = States(states_BLD, there_BL)
            replayed = self._logits(without)
            self.source, self.behind = None, behind
            from_behind = self._logits(without)
        except NOT_RUN as problem:
            raise self._refused(f"it does not run without its pictures: {problem}") from problem
        finally:
            self.source = self.behind = None
        for logits, place in ((replayed, f"in front of {self.place}"), (from_behind, "behind the last layer")):
            if apart := _apart(logits, ordinary):
                raise self._refused(
                    f"with the states {place} replayed, logits are up to {apart:.3g} off: "
                    + (self._other_way() or "layers above read the picture, or what lower layers left, in another way")
                )
        return states_BLD

    def _from_ffn(
        self, parts: dict[str, int], inputs: dict[str, Any], without: dict[str, Any], states: States, ordinary: Tensor
    ) -> Tensor:
        """Moves the boundary to the FFN if logits stay what they are; the states in front of where it lies then."""
        self.at_ffn = parts
        try:
            value_BLD = self.capture(inputs)
            self.source = States(value_BLD, states.there_BL)
            if not _apart(self._logits(without), ordinary):
                return value_BLD
        except NOT_RUN:
            pass
        finally:
            self.source = None
        self.at_ffn = {}
        return states.value_BLD

    @property
    def place(self) -> str:
        """Where the boundary lies, or will when `check` finds that it can."""
        return f"the FFN of layer {self.layer}" if self._parts else f"layer {self.layer}"

    # ---- inside the model ----

    def _in_front(self, layer: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        """Sees the states in front of the boundary, and exchanges them when there is a source."""
        hidden_BLD = args[0] if args else kwargs["hidden_states"]
        if self.behind is not None:
            return None
        if self.source is None:
            self._seen = hidden_BLD
            return None
        value_BLD, there_BL = self.source
        value_BLD = torch.where(there_BL[..., None], value_BLD, hidden_BLD.detach())
        # Reentrant checkpointing only looks at inputs that require gradients.
        value_BLD.requires_grad_(hidden_BLD.requires_grad)
        return ((value_BLD, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": value_BLD})

    def _skipping(self, index: int, forward):
        @functools.wraps(forward)
        def maybe(*args: Any, **kwargs: Any) -> Any:
            below = self.source is not None and index < self.layer
            above = self._capturing and index >= self.layer + bool(self.at_ffn)
            if not (below or above or self.behind is not None):
                output = forward(*args, **kwargs)
                states_BLD = output[0] if isinstance(output, tuple) else output
                if self._capturing and index == self.layer:
                    self._seen = states_BLD
                elif index == len(self.layers) - 1 and not torch.is_grad_enabled():
                    self._last = states_BLD
                return output
            hidden = args[0] if args else kwargs["hidden_states"]
            if self.behind is not None and index == len(self.layers) - 1:
                hidden = torch.where(self.behind.there_BL[..., None], self.behind.value_BLD, hidden)
            return _in_form(hidden, self.forms[index])

        return maybe

    def _silent(self, name: str, is_ffn: bool, forward):
        """A part of the lowest trained layer that says zero: the FFN while capturing, the others while replaying."""

        @functools.wraps(forward)
        def maybe(*args: Any, **kwargs: Any) -> Any:
            if name not in self.at_ffn or not (self._capturing if is_ffn else self.source is not None):
                return forward(*args, **kwargs)
            hidden = args[0] if args else kwargs["hidden_states"]
            return _in_form(torch.zeros_like(hidden), self.at_ffn[name])

        return maybe

    def last_states(self) -> Tensor:
        """(B, L, D) the states behind the last layer in the newest forward without gradients; given out once."""
        last, self._last = self._last, None
        return last

    def _note_form(self, layer: nn.Module, args: tuple, output: Any) -> None:
        self.forms.append(_form(output))

    def _taken(self) -> Tensor:
        seen, self._seen = self._seen, None
        return seen.detach()

    def _logits(self, inputs: dict[str, Any]) -> Tensor:
        # Whatever is drawn on the way (a noisy router's choice) is drawn alike both times.
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(0)
            return self.call(**inputs).logits.clone()

    # ---- reasons ----

    def _other_way(self) -> str:
        """In which other way the picture is known to reach the upper layers, where the config says it."""
        config = self.model.config
        depths = getattr(getattr(config, "vision_config", None), "deepstack_visual_indexes", None)
        if depths and self.layer < len(depths):
            return (
                f"the picture enters after the first {len(depths)} layers too (deepstack), so the lowest trained layer "
                f"must be number {len(depths)} or higher"
            )
        if getattr(config, "is_encoder_decoder", False):
            return "the decoder attends to the encoder's states, which hold the picture"
        if any("cross" in name for layer in self.layers[self.layer :] for name, _ in layer.named_modules()):
            return "layers above attend to the picture itself"
        return ""

    def _refused(self, why: str) -> FamilyError:
        return FamilyError(f"{type(self.model).__name__} cannot train from a cached prefix", why=why, fix=OFF)


def _form(output: Any) -> int:
    return len(output) if isinstance(output, tuple) else 0


def _in_form(hidden: Tensor, form: int) -> Any:
    """What a module returns that only hands on `hidden`."""
    return (hidden, *[None] * (form - 1)) if form else hidden


def _apart(value: Tensor, expected: Tensor) -> float:
    """By how much `value` is off; 0 when that is nothing, or as little as the order of additions explains."""
    if value.shape != expected.shape:
        return float("inf")
    apart = (value - expected).abs().max().item()
    same_bits = value.dtype == torch.float32 and value.device.type == "cpu"
    return 0.0 if apart <= (0.0 if same_bits else 0.01 * expected.abs().max().item()) else apart
