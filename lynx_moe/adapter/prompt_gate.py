"""The prompt gate's head: from the frozen embeddings of a prompt's words to "this asks for grounding".

The paper's prompt classifier, made part of the adapter. Its input is the mean of the base's own token embeddings over
the prompt's text tokens (no pictures, no padding, no answer); those never change, so the head can be fitted alone, in
seconds, before or after the experts, and it is never in the main optimiser.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from peft.utils.integrations import gather_params_ctx
from torch import Tensor, nn
from torch.nn import functional as F

from lynx_moe.errors import ConfigError

_NOT_TEXT = ("image", "video", "audio", "vision", "pad")


class Float32Linear(nn.Linear):
    """A linear map in float32 whatever its weights were cast to.

    Called as a module and never by its weights from outside: sharded training gathers a weight when its module runs.
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.float(), self.weight.float(), self.bias.float())


class PromptGateHead(nn.Module):
    """A logit per prompt, above 0 for grounding: `out(silu(hidden(mean embedding)))`, in float32.

    A small MLP without normalisation layers, so that an exported copy is two matmuls. 32 hidden units are our choice:
    enough for word combinations, few enough for some hundred prompts.

    Attributes:
        fitted: False until `fit_prompt_gate`, saved with the adapter.
    """

    def __init__(self, width: int, hidden: int = 32, device: torch.device | str = "cpu"):
        super().__init__()
        # float32 also when the whole model was cast down: the sign near 0 decides.
        self.hidden = Float32Linear(width, hidden, device=device)
        self.out = Float32Linear(hidden, 1, device=device)
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool, device=device))
        self.requires_grad_(False)

    @property
    def is_fitted(self) -> bool:
        """Whether `fit_head` was called or a fitted head was loaded; False while it has no data (on meta)."""
        return not self.fitted.is_meta and bool(self.fitted)

    def forward(self, pooled_BD: Tensor) -> Tensor:
        """Logits `(B,)`."""
        return self.out(F.silu(self.hidden(pooled_BD)))[:, 0]


def prompt_mask(
    model: nn.Module, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None
) -> Tensor:
    """Which tokens `(B, L)` are the prompt's text: no padding, no picture, no answer (labels other than -100)."""
    counted_BL = torch.ones_like(input_ids, dtype=torch.bool)
    for token_id in _not_text_ids(model):
        counted_BL &= input_ids != token_id
    if isinstance(attention_mask, Tensor) and attention_mask.shape == input_ids.shape:
        counted_BL &= attention_mask.bool()
    if labels is not None and labels.shape == input_ids.shape:
        counted_BL &= labels == -100
    return counted_BL


def pool(embedding: nn.Module, input_ids: Tensor, counted_BL: Tensor) -> Tensor:
    """Mean embedding `(B, D)` in float32 over counted tokens; zeros for a row without any."""
    with torch.no_grad():
        embedded_BLD = embedding(input_ids).float()
        weight_BL = counted_BL.float().to(embedded_BLD.device)
        return torch.einsum("bld,bl->bd", embedded_BLD, weight_BL) / weight_BL.sum(1, keepdim=True).clamp_min(1.0)


def decide(embedding: nn.Module, head: PromptGateHead, input_ids: Tensor, counted_BL: Tensor) -> Tensor:
    """The head's logits `(B,)`."""
    device_type = input_ids.device.type
    with torch.no_grad(), torch.autocast(device_type, enabled=False):
        pooled_BD = pool(embedding, input_ids, counted_BL)
        return head(pooled_BD.to(head.out.weight.device))


def pool_prompts(model: nn.Module, prompts: Sequence[Sequence[int]], batch_size: int = 256) -> Tensor:
    """Mean embeddings `(number of prompts, D)`, computed exactly as in a forward pass."""
    embedding = model.get_input_embeddings()
    device = embedding.weight.device
    pooled = []
    # Before the first step of a training under ZeRO-3 nothing gathers a weight when its module runs.
    with gather_params_ctx(list(embedding.parameters()), modifier_rank=None):
        for start in range(0, len(prompts), batch_size):
            rows = [list(p) for p in prompts[start : start + batch_size]]
            longest = max(map(len, rows))
            ids = torch.tensor([r + [0] * (longest - len(r)) for r in rows], device=device)
            there = torch.tensor([[1] * len(r) + [0] * (longest - len(r)) for r in rows], device=device)
            pooled.append(pool(embedding, ids, prompt_mask(model, ids, there)))
    return torch.cat(pooled)


def fit_head(
    head: PromptGateHead, pooled_BD: Tensor, is_grounding: Sequence[bool], *, steps: int = 300, seed: int = 0
) -> float:
    """Fit `head` in place by full-batch logistic regression; returns its error rate on these same prompts.

    Both kinds weigh the same, however many prompts each has. Deterministic for a seed.

    Raises:
        ConfigError: only one kind of prompt was given, or the numbers do not match.
    """
    target_B = torch.tensor([bool(g) for g in is_grounding])
    if len(target_B) != len(pooled_BD) or target_B.all() or not target_B.any():
        raise ConfigError(
            f"{len(pooled_BD)} prompts with {int(target_B.sum())} marked as grounding and {len(target_B)} marks",
            why="the head learns to tell two kinds apart, so it needs both, and one mark per prompt",
            fix="pass grounding and understanding prompts together",
        )
    x_BD = pooled_BD.float().cpu()
    mean_D, scale_D = x_BD.mean(0), x_BD.std(0).clamp_min(1e-6)
    z_BD = (x_BD - mean_D) / scale_D
    weight_B = torch.where(target_B, 0.5 / target_B.float().mean(), 0.5 / (~target_B).float().mean())

    fresh = PromptGateHead(x_BD.shape[1], head.hidden.out_features).requires_grad_(True)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for linear in (fresh.hidden, fresh.out):
            linear.weight.copy_(torch.randn(linear.weight.shape, generator=draw) * linear.in_features**-0.5)
            linear.bias.zero_()
    optimiser = torch.optim.AdamW(fresh.parameters(), lr=1e-2, weight_decay=1e-2)
    with torch.enable_grad():
        for _ in range(steps):
            loss = F.binary_cross_entropy_with_logits(fresh(z_BD), target_B.float(), weight=weight_B)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

    with torch.no_grad():
        # Fold the standardisation into the first layer: the head then reads plain mean embeddings.
        folded_FD = fresh.hidden.weight / scale_D
        head.hidden.weight.copy_(folded_FD)
        head.hidden.bias.copy_(fresh.hidden.bias - folded_FD @ mean_D)
        head.out.weight.copy_(fresh.out.weight)
        head.out.bias.copy_(fresh.out.bias)
        head.fitted.fill_(True)
        logits_B = head(x_BD.to(head.out.weight.device)).cpu()
    return ((logits_B > 0) != target_B).float().mean().item()


def _not_text_ids(model: nn.Module) -> list[int]:
    """Ids that stand for pictures or nothing, as the model's config (and its text part's) names them."""
    ids = set()
    for config in (model.config, getattr(model.config, "text_config", None)):
        for name, value in (vars(config) if config is not None else {}).items():
            if name.endswith(("_token_id", "_token_index")) and any(w in name for w in _NOT_TEXT):
                ids.update([value] if isinstance(value, int) else [])
    return sorted(ids)
