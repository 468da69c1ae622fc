"""Several records in one row: a picture's tokens once before its records, and such groups one after another.

    row        <s> USER: [picture tokens]  Find the cat. ASSISTANT: ...</s>  How many dogs? ASSISTANT: 2</s>  <s> USER:
    group       1   1        1            1  1   1  1     1             1    1   1    1       1      1  1      2   2
    segment     1   1        1            2  2   2  2     2             2    3   3    3       3      3  3      1   1
    position    0   1        2..P         P+1 ...                            P+1 ...                           0   1

A token sees the earlier tokens of its own segment and the prefix of its own group, nothing else, and counts positions
as if it stood alone, so every logit is what it is without packing. Pictures come in the order of their tokens.

Two forms say so to a model. A 4D mask, for eager and sdpa attention, on any device; it costs attention between all
tokens of a row. Or, for flash attention, rows without a mask or padding, laid end to end in one long row: position ids
start anew with each segment and cumulative lengths tell where, so that nothing is computed between segments. Segments
are whole sequences there, so every record repeats its picture. This holds for decoders with one rotary position per
token and full causal attention; `check_packable` refuses the others.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lynx_moe.data.pictures import join, side_by_side
from lynx_moe.data.sample import IGNORED, Tokens
from lynx_moe.errors import FamilyError

PREFIX, PADDING = 1, 0  # segment ids; records of a group count on from 2
MASKED = ("eager", "sdpa")  # implementations of attention that take a 4D mask
FLASH = ("flash_attention_2", "flash_attention_3")
# Families whose forward hands further arguments to the decoder alone. In others the lengths of text segments would
# reach the vision tower too; those are given position ids only, from which transformers reads the same lengths, once in
# every layer.
LENGTHS_TO_DECODER = (
    "aya_vision", "idefics3", "internvl", "llava", "llava_next", "llava_onevision", "mistral3", "smolvlm", "vipllava",
)  # fmt: skip


def pack(samples: Sequence[dict[str, torch.Tensor]], prefix: int) -> dict[str, torch.Tensor]:
    """One row out of token samples whose first `prefix` tokens are the same.

    Args:
        samples: as `SampleBuilder.sample` makes them, each (L_k,).
        prefix: tokens to keep once; none of them is learned.

    Returns:
        The samples' tensors over tokens as one row (L,), with `position_ids` and `segment_ids` (1 for the prefix, 2..
        for the records, so that 0 is left for padding), and items of targets joined. `is_grounding` is False on the
        prefix, which belongs to no record.

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
    over_tokens = [n for n, v in first.items() if v.shape == first["input_ids"].shape and n != "attention_mask"]
    row = {n: torch.cat([first[n][:prefix], *(sample[n][prefix:] for sample in samples)]) for n in over_tokens}
    # Items of targets: none of them is of a token of the prefix.
    row |= {n: join([sample[n] for sample in samples]) for n, v in first.items() if v.ndim > 1}
    own = [len(sample["input_ids"]) - prefix for sample in samples]
    row["is_grounding"][:prefix] = False
    row["position_ids"] = torch.cat([torch.arange(prefix), *(torch.arange(prefix, prefix + n) for n in own)])
    row["segment_ids"] = torch.cat(
        [torch.full((prefix,), PREFIX), *(torch.full((n,), PREFIX + 1 + k) for k, n in enumerate(own))]
    )
    return row


def chain(groups: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """What `pack` made of several groups as one row (L,), with `group_ids` (1, 2, ..) to tell them apart.

    What is not over tokens (items of targets, pictures if there are any) is joined along its first axis in the order of
    the groups.
    """
    length = len(groups[0]["input_ids"])
    over_tokens = [name for name, value in groups[0].items() if value.ndim == 1 and len(value) == length]
    pictures = [{name: each[name] for name in each if name not in over_tokens} for each in groups]
    row = {name: torch.cat([each[name] for each in groups]) for name in over_tokens}
    row["group_ids"] = torch.cat([torch.full_like(each["segment_ids"], k) for k, each in enumerate(groups, start=1)])
    return row | side_by_side(pictures)


def additive_mask(segment_ids_BL: torch.Tensor, group_ids_BL: torch.Tensor | None = None) -> torch.Tensor:
    """(B, 1, L, L) float32: 0 where a token may look, the least number where it may not. Without groups a row is one.

    Additive floats and not booleans: transformers hands a 4D mask to the attention as it is, and eager attention adds
    it. A padding token sees padding before it and itself, so no row of the softmax is empty.
    """
    B, L = segment_ids_BL.shape
    asks_BL1, offers_B1L = segment_ids_BL[:, :, None], segment_ids_BL[:, None, :]
    earlier_LL = torch.ones(L, L, dtype=torch.bool, device=segment_ids_BL.device).tril()
    shared_B1L = (offers_B1L == PREFIX) & (asks_BL1 != PADDING)
    sees_BLL = earlier_LL & ((asks_BL1 == offers_B1L) | shared_B1L)
    if group_ids_BL is not None:
        sees_BLL &= group_ids_BL[:, :, None] == group_ids_BL[:, None, :]
    # float32 whatever the model computes in: eager and sdpa attention both take it, under autocast too.
    mask = torch.zeros(B, L, L, dtype=torch.float32, device=segment_ids_BL.device)
    return mask.masked_fill(~sees_BLL, torch.finfo(torch.float32).min)[:, None]


def cumulative_lengths(position_ids_L: torch.Tensor) -> dict[str, torch.Tensor | int]:
    """Where the sequences of a long row begin, as flash attention wants it: transformers' `FlashAttentionKwargs`.

    Args:
        position_ids_L: counting from 0 in every sequence.

    >>> cumulative_lengths(torch.tensor([0, 1, 2, 0, 1]))["cu_seq_lens_q"]
    tensor([0, 3, 5], dtype=torch.int32)
    """
    starts = (position_ids_L == 0).nonzero().squeeze(1)
    bounds = torch.cat([starts, starts.new_tensor([len(position_ids_L)])]).to(torch.int32)
    longest = int(bounds.diff().max())
    return {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds, "max_length_q": longest, "max_length_k": longest}


def shared_prefix(tokens: Sequence[Tokens], num_picture_tokens: Sequence[int]) -> int | None:
    """Tokens up to and including the last picture, when all share them; None when they differ there.

    0 without pictures.

    Args:
        num_picture_tokens: of each picture, in order.
    """
    first = tokens[0]
    before = first.pictures_at[-1] + 1 if first.pictures_at else 0
    if any(each.pictures_at != first.pictures_at or (each.ids[:before] != first.ids[:before]).any() for each in tokens):
        return None
    return before + sum(num_picture_tokens) - len(first.pictures_at)


def attention_of(model) -> str:
    """Name of the implementation of attention that the text decoder of `model` uses."""
    return getattr(model.config.get_text_config(), "_attn_implementation", None) or model.config._attn_implementation


def check_packable(model, *, lengths: bool = False) -> None:
    """Passes when packed rows give this model the logits of unpacked ones.

    Args:
        lengths: flash attention will do as well, because rows may be told to it by the lengths of their segments.

    Raises:
        FamilyError: its positions have several axes, its layers do not all attend to everything before, picture
            tokens look ahead, or its attention implementation cannot be told of segments.
    """
    config = model.config
    text = config.get_text_config()
    rope = getattr(text, "rope_parameters", None) or {}
    layer_types = set(getattr(text, "layer_types", None) or ())
    window = getattr(text, "sliding_window", None) if getattr(text, "use_sliding_window", True) else None
    implementation = attention_of(model)
    takes = (*MASKED, *FLASH) if lengths else MASKED
    reasons = [
        ("mrope_section" in rope, "its positions have three axes"),
        (bool(layer_types - {"full_attention"}), f"its layers are {', '.join(sorted(layer_types))}"),
        (not layer_types and window is not None, f"it attends within a window of {window} tokens"),
        (config.model_type in ("gemma3", "paligemma"), "its picture tokens look ahead of themselves"),
        (implementation not in takes, f"its attention is {implementation!r}, which takes no 4D mask"),
    ]
    for bad, reason in reasons:
        if bad:
            sdpa = "load it with model.attention=sdpa"
            flash = f"{sdpa}, or set data.packing=sequence" if implementation in FLASH else sdpa
            raise FamilyError(
                f"{type(model).__name__} cannot train on packed rows",
                why=reason,
                fix=flash if "4D" in reason else "use unpacked samples (data.packing=none)",
            )
