"""The prompt gate s of every row: who decides it, how blocks learn of it, how it lives through a generation.

Blocks sit deep inside somebody else's model and get no extra arguments. So one `Runtime` is shared by all blocks of a
model, and two hooks on the model itself (`GateHooks`) fill it:

    before a forward   forced by `set_gate`, else the config's "on"/"off", else ("auto") the head's decision on the
                       prompt; at later steps of a generation the decision kept with its key-value cache
    after a forward    the decision is noted on the cache; without gradients the runtime is put back as it was

With gradients the decision stays until the next forward, because activation checkpointing runs blocks again in
backward. So with checkpointing call backward before the next forward that has gradients *and other rows gated*.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lynx_moe.adapter.prompt_gate import decide, prompt_mask
from lynx_moe.errors import ConfigError

if TYPE_CHECKING:
    from lynx_moe.adapter.block import LynxLayer

_ON_CACHE = "_lynx_prompt_gate"


@dataclass(frozen=True)
class Rows:
    """The gate of a batch: one bool per row, with "all" and "any" read from the device once, not once per block."""

    open_B: Tensor | None  # None: every row is open
    all_open: bool
    any_open: bool

    @staticmethod
    def of(value: bool | Tensor) -> Rows:
        if isinstance(value, bool):
            return OPEN if value else SHUT
        return Rows(value, bool(value.all()), bool(value.any()))

    def among(self, own_B: Tensor) -> Rows:
        """Open only where `own_B` is true as well."""
        return (
            Rows.of(own_B if self.open_B is None else own_B.to(self.open_B.device) & self.open_B)
            if self.any_open
            else SHUT
        )

    def repeated(self, batch: int | None) -> Rows:
        """For a batch that is a multiple: beams and several continuations of one prompt stand next to each other."""
        if self.open_B is None or batch is None or batch % len(self.open_B):
            return self
        return Rows(self.open_B.repeat_interleave(batch // len(self.open_B)), self.all_open, self.any_open)


@dataclass(eq=False)
class Asked:
    """The prompts that a caller handed to `forward` or `generate` of the PEFT model, and what was decided on them."""

    model: nn.Module
    input_ids: Tensor
    attention_mask: Tensor | None
    rows: dict[str, Rows] = field(default_factory=dict)


OPEN = Rows(None, True, True)
SHUT = Rows(None, False, False)


@dataclass(eq=False)
class Runtime:
    """What the blocks of one model share. Plain data: never a parameter, never saved."""

    layers: list[LynxLayer] = field(default_factory=list)
    modes: dict[str, str] = field(default_factory=dict)  # adapter name -> "on" | "off" | "auto"
    forced: bool | Tensor | None = None
    assigned: dict[str, Tensor] | None = None  # adapter name -> its rows of a batch that mixes adapters
    rows: dict[str, Rows] = field(default_factory=dict)  # of the current (or, for backward, the last) forward
    valid_BL: Tensor | None = None  # tokens that are no padding, for the penalties
    aux_scale: float = 1.0
    recorder: Any = None
    warned: set[str] = field(default_factory=set)
    hooks: list = field(default_factory=list)
    # adapter name -> prompt, length so far and rows: generation without a cache
    uncached: dict[str, tuple[Tensor, int, Rows]] = field(default_factory=dict)
    asked: Asked | None = None

    def rows_of(self, adapter: str) -> Rows:
        """The gate of `adapter` now.

        Where the model's own forward did not run (a few families generate with an inner model, others were called in
        part), it is decided on the prompts that PEFT's wrapper was asked with.

        Raises:
            ConfigError: a fitted gate, and nobody has shown it the prompt.
        """
        found = self.rows.get(adapter)
        if found is not None:
            return found
        mode, head = self.modes.get(adapter), self.head_of(adapter)
        if self.forced is not None:
            rows = Rows.of(self.forced)
        elif mode != "auto" or head is None or not head.is_fitted:
            rows = SHUT if mode == "off" else OPEN
        else:
            rows = self.asked_rows(adapter)
            if rows is None:
                raise ConfigError(
                    f"the prompt gate of {adapter!r} has not seen the prompt",
                    why="prompt_gate='auto' reads input_ids, and only a part of the model was called, without them",
                    fix="call forward or generate of the PEFT model with input_ids=..., or decide in set_gate",
                )
        return rows if self.assigned is None else rows.among(self.assigned[adapter])

    def asked_rows(self, adapter: str) -> Rows | None:
        """What a fitted gate says to the prompts that the PEFT model was asked with; None where there are none."""
        asked = self.asked
        if asked is None:
            return None
        if adapter not in asked.rows:
            counted_BL = prompt_mask(asked.model, asked.input_ids, asked.attention_mask)
            embedding = asked.model.get_input_embeddings()
            logits_B = decide(embedding, self.head_of(adapter), asked.input_ids, counted_BL)
            asked.rows[adapter] = Rows.of(logits_B > 0)
        return asked.rows[adapter]

    def speaking(self, active: list[str]) -> list[str]:
        """Which adapters take part in this forward, in order: the active ones, unless rows were dealt out by name."""
        return list(active if self.assigned is None else self.assigned)

    def warn_once(self, message: str) -> None:
        if message not in self.warned:
            self.warned.add(message)
            warnings.warn(message, UserWarning, stacklevel=3)

    def head_of(self, adapter: str) -> nn.Module | None:
        """The prompt gate's head of `adapter`; it lives in the first block that the adapter wraps."""
        return next((l.lynx_prompt_gate[adapter] for l in self.layers if adapter in l.lynx_prompt_gate), None)

    def install(self, model: nn.Module) -> None:
        """Put the hooks on the model that users call, once."""
        if not self.hooks:
            hooks = GateHooks(self)
            self.hooks = [
                model.register_forward_pre_hook(hooks.before, with_kwargs=True),
                # always_call: a forward that raises must not leave its gate behind.
                model.register_forward_hook(hooks.after, with_kwargs=True, always_call=True),
            ]

    def remove(self) -> None:
        for handle in self.hooks:
            handle.remove()
        self.hooks = []


@lru_cache
def _parameters(kind: type[nn.Module]) -> tuple[str, ...]:
    """Names of what a model's forward takes, in order: families disagree on what comes second."""
    return tuple(inspect.signature(kind.forward).parameters)[1:]


class GateHooks:
    """The two hooks of a model. `before` decides, `after` keeps the decision with the cache."""

    def __init__(self, runtime: Runtime):
        self.runtime = runtime
        self.outer: list[tuple[dict[str, Rows], Tensor | None, bool]] = []

    def before(self, model: nn.Module, args: tuple, kwargs: dict) -> None:
        runtime = self.runtime
        # A forward of the base alone (adapter disabled) decides nothing and disturbs nothing.
        disabled = not runtime.layers or runtime.layers[0].disable_adapters
        self.outer.append((runtime.rows, runtime.valid_BL, disabled))
        if disabled:
            return
        kwargs = {**dict(zip(_parameters(type(model)), args, strict=False)), **kwargs}
        input_ids, mask = kwargs.get("input_ids"), kwargs.get("attention_mask")
        runtime.valid_BL = mask.bool() if isinstance(mask, Tensor) and mask.ndim == 2 else None
        words = (input_ids, *map(kwargs.get, ("inputs_embeds", "decoder_input_ids", "decoder_inputs_embeds")))
        batch = next((t.shape[0] for t in words if t is not None), None)
        if runtime.forced is None:
            refuse_conflicting_gates(runtime)
        runtime.rows = {
            adapter: self._own(adapter, self._rows(model, adapter, input_ids, mask, kwargs, batch), batch)
            for adapter in runtime.speaking(runtime.layers[0].active_adapters)
            if adapter in runtime.modes
        }

    def after(self, model: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        runtime = self.runtime
        rows, valid_BL, disabled = self.outer.pop()
        if disabled:
            return
        cache = {**dict(zip(_parameters(type(model)), args, strict=False)), **kwargs}.get("past_key_values")
        if cache is None:
            cache = getattr(output, "past_key_values", None)
        if cache is not None and runtime.forced is None:
            _keep(cache, runtime.rows)
        if not torch.is_grad_enabled():
            runtime.rows, runtime.valid_BL = rows, valid_BL

    def _own(self, adapter: str, rows: Rows, batch: int | None) -> Rows:
        """`rows` without those that were given to other adapters by name."""
        if self.runtime.assigned is None:
            return rows
        own_B = self.runtime.assigned[adapter]
        if batch is not None and batch % len(own_B):
            raise ConfigError(
                f"Length of `adapter_names` should be the same as the number of inputs, but got {len(own_B)} and "
                f"{batch} respectively.",
                why="each row of the batch is answered by the adapter of that name",
                fix="pass one name per row, '__base__' for the base itself",
            )
        # Beams and several continuations of one prompt stand next to each other.
        return rows.among(own_B.repeat_interleave((batch or len(own_B)) // len(own_B)))

    def _rows(self, model, adapter: str, input_ids, mask, kwargs: dict, batch: int | None) -> Rows:
        runtime = self.runtime
        if runtime.forced is not None:
            if isinstance(runtime.forced, Tensor) and batch is not None and len(runtime.forced) != batch:
                raise ConfigError(
                    f"set_gate got {len(runtime.forced)} rows, the batch has {batch}",
                    why="the prompt gate is one bool per row of the batch",
                    fix="pass one bool per row (beams count as rows), or a single bool for all",
                )
            return Rows.of(runtime.forced)
        mode = runtime.modes[adapter]
        if mode != "auto":
            return OPEN if mode == "on" else SHUT
        head = runtime.head_of(adapter)
        if head is None or not head.is_fitted:
            runtime.warn_once(
                f"prompt_gate='auto' of adapter {adapter!r} has not been fitted, so it is open for every prompt. "
                "Call lynx_moe.adapter.fit_prompt_gate, or set prompt_gate to 'on' or 'off'."
            )
            return OPEN
        kept = _kept(kwargs.get("past_key_values"), adapter, batch)
        if kept is not None:
            return kept
        if input_ids is None and (asked := runtime.asked_rows(adapter)) is not None:
            return asked.repeated(batch)  # generation of an encoder-decoder: the encoder has read the prompt before
        if input_ids is None:
            runtime.warn_once(
                "prompt_gate='auto' needs input_ids, and the model was called with embeddings: open for every prompt. "
                "Use lynx_moe.adapter.set_gate to decide yourself."
            )
            return OPEN
        kept = self._kept_without_cache(adapter, input_ids, kwargs)
        if kept is not None:
            return kept
        counted_BL = prompt_mask(model, input_ids, mask, kwargs.get("labels"))
        rows = Rows.of(decide(model.get_input_embeddings(), head, input_ids, counted_BL) > 0)
        if kwargs.get("use_cache") is False and not torch.is_grad_enabled():
            runtime.uncached[adapter] = (input_ids, input_ids.shape[1], rows)
        return rows

    def _kept_without_cache(self, adapter: str, input_ids: Tensor, kwargs: dict) -> Rows | None:
        """Generation with `use_cache=False` feeds the whole text again, one token longer each time."""
        runtime = self.runtime
        if adapter not in runtime.uncached or kwargs.get("use_cache") is not False or torch.is_grad_enabled():
            return None
        prompt, length, rows = runtime.uncached[adapter]
        again = input_ids.shape == (len(prompt), length + 1)
        if not again or not torch.equal(input_ids[:, : prompt.shape[1]], prompt):
            return None
        runtime.uncached[adapter] = (prompt, length + 1, rows)
        return rows


def refuse_conflicting_gates(runtime: Runtime) -> None:
    """Nothing, when all active adapters decide about a prompt in the same way.

    Raises:
        ConfigError: they do not. A prompt on which one speaks and the other is silent by decree is answered by a
            mixture that nobody trained, and neither adapter's measured retention holds for it.
    """
    modes = {a: runtime.modes[a] for a in runtime.layers[0].active_adapters if a in runtime.modes}
    if len(set(modes.values())) > 1:
        raise ConfigError(
            f"active adapters have conflicting prompt gates: {', '.join(f'{a!r} is {m}' for a, m in modes.items())}",
            why="together they would answer one prompt by different rules",
            fix="activate one (set_adapter), give them the same prompt_gate, or decide in set_gate(model, rows)",
        )


def _keep(cache: Any, rows: dict[str, Rows]) -> None:
    try:
        setattr(cache, _ON_CACHE, dict(rows))
    except AttributeError:
        pass  # a plain tuple of tensors has no room; transformers 5 has no such caches of its own


def _kept(cache: Any, adapter: str, batch: int | None) -> Rows | None:
    """The decision made when this cache was filled; none for an empty one, which is about to see its prompt."""
    if cache is None or not hasattr(cache, "get_seq_length") or int(cache.get_seq_length()) == 0:
        return None
    rows = getattr(cache, _ON_CACHE, {}).get(adapter)
    if rows is None or rows.open_B is None or batch is None:
        return rows
    return rows.repeated(batch) if batch % len(rows.open_B) == 0 else None


def runtime_of(model: nn.Module) -> Runtime:
    """The runtime that the blocks of `model` share.

    Raises:
        ConfigError: the model has no LynX blocks.
    """
    for module in model.modules():
        runtime = getattr(module, "runtime", None)
        if isinstance(runtime, Runtime):
            return runtime
    raise ConfigError(
        f"{type(model).__name__} has no LynX blocks",
        why="no adapter was attached, or it was unloaded",
        fix="wrap it first: get_peft_model(model, LynxConfig())",
    )


def open_rows(model: nn.Module) -> Rows:
    """In which rows of the forward that is running `model`, or a part of it, an active adapter may speak.

    All, for a model whose adapter has no gate; none while adapters are disabled.
    """
    runtime = next((m.runtime for m in model.modules() if isinstance(getattr(m, "runtime", None), Runtime)), None)
    if runtime is None:
        return OPEN
    if runtime.layers[0].disable_adapters:
        return SHUT
    found = [runtime.rows_of(adapter) for adapter in runtime.speaking(runtime.layers[0].active_adapters)]
    if any(rows.all_open for rows in found):
        return OPEN
    some = [rows.open_B for rows in found if rows.any_open]
    return Rows.of(torch.stack(some).any(dim=0)) if some else SHUT


@contextmanager
def set_gate(model: nn.Module, rows: bool | list[bool] | Tensor) -> Iterator[None]:
    """Inside, the prompt gate is `rows`, whatever the adapter's own prompt gate says.

    Args:
        rows: one bool for all rows, or one per row of the batch. A gated-off row is the base's, bit for bit.

    Raises:
        ConfigError: the model has no LynX blocks; or, in the forward, the number of rows does not fit the batch.
    """
    runtime = runtime_of(model)
    before = runtime.forced
    runtime.forced = rows if isinstance(rows, bool) else torch.as_tensor(rows, dtype=torch.bool)
    if isinstance(runtime.forced, Tensor) and runtime.forced.ndim == 0:
        runtime.forced = bool(runtime.forced)
    try:
        yield
    finally:
        runtime.forced = before


def set_aux_scale(model: nn.Module, scale: float) -> None:
    """Penalty gradients are multiplied by `scale` in backward from now on; 1.0 at the start.

    The penalties reach their parameters inside the blocks, so whatever multiplies the loss outside must be said here:
    `1 / gradient_accumulation_steps` if the trainer divides each micro-batch's loss, times the factor of a gradient
    scaler. Averaging over data-parallel ranks needs nothing: it averages these gradients as well.
    """
    runtime_of(model).aux_scale = float(scale)


def follow_loss_scale(trainer: Any) -> None:
    """`set_aux_scale` for the coming step of a transformers `Trainer`: its micro-batches and fp16 scaler."""
    scaler = getattr(trainer.accelerator, "scaler", None)
    factor = scaler.get_scale() if scaler is not None and scaler.is_enabled() else 1.0
    set_aux_scale(trainer.model, factor / trainer.current_gradient_accumulation_steps)
