"""Several records of one picture in one row: the picture's tokens once, then each question with its answer.

    row        <s> USER: [picture tokens]  Find the cat. ASSISTANT: ...</s>  How many dogs? ASSISTANT: 2</s>
    segment     0   0         0            1  1   1  1     1             1    2   2    2       2      2  2
    position    0   1        2..P         P+1 ...                            P+1 ...

A token sees the earlier tokens of its own segment and the shared prefix, nothing of the other segments, and counts
positions as if it stood alone, so every logit is what it is without packing. This holds for decoders with one rotary
position per token and full causal attention; `check_packable` refuses the others.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lynx_moe.data.sample import IGNORED, Tokens
from lynx_moe.errors import FamilyError

PREFIX, PADDING = 1, 0  # segment ids; records of a row count on from 2


def pack(samples: Sequence[dict[str, torch.Tensor]], prefix: int) -> dict[str, torch.Tensor]:
    """One row out of token samples whose first `prefix` tokens are the same.

    Args:
        samples: as `SampleBuilder.sample` makes them, each (L_k,).
        prefix: tokens to keep once; none of them is learned.

    Returns:
        The samples' tensors as one row (L,), with `position_ids` and `segment_ids` (1 for the prefix, 2.. for the
        records, so that 0 is left for padding). `is_grounding` is False on the prefix, which belongs to no record.

    Raises:
        ValueError: the prefixes differ, or one of them is learned.
    """
    first = samples[0]
    for sample in samples:
        if not torch.equal(sample["input_ids"][:prefix], first["input_ids"][:prefix]):
            raise ValueError(f"samples differ within the first {prefix} tokens, which were to be shared")
        # The token before an answer predicts its first token; it has to lie in the segment, not in the shared prefix.
        if (sample["labels"][: prefix + 1] != IGNORED).any():
            raise ValueError("an answer begins within the shared prefix")
    row = {
        name: torch.cat([first[name][:prefix], *(sample[name][prefix:] for sample in samples)])
        for name in first
        if name != "attention_mask"
    }
    own = [len(sample["input_ids"]) - prefix for sample in samples]
    row["is_grounding"][:prefix] = False
    row["position_ids"] = torch.cat([torch.arange(prefix), *(torch.arange(prefix, prefix + n) for n in own)])
    row["segment_ids"] = torch.cat(
        [torch.full((prefix,), PREFIX), *(torch.full((n,), PREFIX + 1 + k) for k, n in enumerate(own))]
    )
    return row


def additive_mask(segment_ids_BL: torch.Tensor) -> torch.Tensor:
    """(B, 1, L, L) float32: 0 where a token may look, the least number where it may not.

    Additive floats and not booleans: transformers hands a 4D mask to the attention as it is, and eager attention adds
    it. A padding token sees padding before it and itself, so no row of the softmax is empty.
    """
    B, L = segment_ids_BL.shape
    asks_BL1, offers_B1L = segment_ids_BL[:, :, None], segment_ids_BL[:, None, :]
    earlier_LL = torch.ones(L, L, dtype=torch.bool, device=segment_ids_BL.device).tril()
    shared_B1L = (offers_B1L == PREFIX) & (asks_BL1 != PADDING)
    sees_BLL = earlier_LL & ((asks_BL1 == offers_B1L) | shared_B1L)
    # float32 whatever the model computes in: eager and sdpa attention both take it, under autocast too.
    mask = torch.zeros(B, L, L, dtype=torch.float32, device=segment_ids_BL.device)
    return mask.masked_fill(~sees_BLL, torch.finfo(torch.float32).min)[:, None]


def shared_prefix(tokens: Sequence[Tokens], num_picture_tokens: int) -> int | None:
    """Tokens up to and including the picture, when all records share them; None when they differ there or have none."""
    first = tokens[0]
    for each in tokens:
        if each.picture_at is None or each.picture_at != first.picture_at:
            return None
        if not (each.ids[: each.picture_at] == first.ids[: first.picture_at]).all():
            return None
    return first.picture_at + num_picture_tokens


def check_packable(model) -> None:
    """Passes when packed rows give this model the logits of unpacked ones.

    Raises:
        FamilyError: its positions have several axes, its layers do not all attend to everything before, picture
            tokens look ahead, or its attention implementation cannot take a 4D mask.
    """
    config = model.config
    text = config.get_text_config()
    rope = getattr(text, "rope_parameters", None) or {}
    layer_types = set(getattr(text, "layer_types", None) or ())
    window = getattr(text, "sliding_window", None) if getattr(text, "use_sliding_window", True) else None
    implementation = getattr(text, "_attn_implementation", None) or config._attn_implementation
    reasons = [
        ("mrope_section" in rope, "its positions have three axes"),
        (bool(layer_types - {"full_attention"}), f"its layers are {', '.join(sorted(layer_types))}"),
        (not layer_types and window is not None, f"it attends within a window of {window} tokens"),
        (config.model_type in ("gemma3", "paligemma"), "its picture tokens look ahead of themselves"),
        (implementation not in ("eager", "sdpa"), f"its attention is {implementation!r}, which takes no 4D mask"),
    ]
    for bad, reason in reasons:
        if bad:
            raise FamilyError(
                f"{type(model).__name__} cannot train on packed rows",
                why=reason,
                fix="load it with attn_implementation='sdpa'" if "4D" in reason else "use unpacked samples",
            )
