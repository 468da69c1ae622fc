"""Samples side by side in a batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from lynx_moe.data.packing import additive_mask, chain, cumulative_lengths
from lynx_moe.data.pictures import join
from lynx_moe.data.sample import IGNORED

FILL = {"labels": IGNORED}


class Collator:
    """Pads samples to a batch.

    Tensors over tokens get `(B, L)`; a 2D `attention_mask` of single samples stays 2D, packed samples get a 4D one (see
    `lynx_moe.data.packing`). An entry that is a list of samples, as of step-wise tuning, gives as many rows. Pictures
    are joined along their first axis; where they differ in another (pictures cut into different numbers of tiles), the
    smaller are filled up with zeros.

    Args:
        processor: for the padding token.
        side: "right" for training, "left" for generation.
        end_to_end: for flash attention: packed samples, whose records share no picture, in one long row without mask
            or padding.
        with_lengths: then also give the lengths of its sequences, for models that hand them to their decoder alone.
    """

    def __init__(self, processor, side: str = "right", *, end_to_end: bool = False, with_lengths: bool = False):
        self.pad_id = pad_id(processor)
        self.side = side
        self.end_to_end = end_to_end
        self.with_lengths = with_lengths

    def __call__(
        self, samples: Sequence[dict[str, torch.Tensor] | list[dict[str, torch.Tensor]]]
    ) -> dict[str, torch.Tensor | int]:
        """One batch; keys that are over tokens are those of the same length as `input_ids`.

        Returns:
            `input_ids`, `labels`, `is_grounding` (B, L), `attention_mask` (B, L) or (B, 1, L, L), `position_ids`
            (B, L) for packed samples, token types (B, L), and the pictures' tensors. End to end: (1, all tokens), no
            `attention_mask`, and with lengths transformers' `FlashAttentionKwargs`.
        """
        samples = [row for each in samples for row in (each if isinstance(each, list) else [each])]
        if self.end_to_end:
            return self._end_to_end(samples)
        length = max(len(sample["input_ids"]) for sample in samples)
        batch: dict[str, torch.Tensor] = {}
        names = dict.fromkeys(name for sample in samples for name in sample)
        for name in names:
            having = [sample for sample in samples if name in sample]
            if all(s[name].ndim == 1 and len(s[name]) == len(s["input_ids"]) for s in having):
                fill = self.pad_id if name == "input_ids" else FILL.get(name, 0)
                batch[name] = torch.stack([self._pad(s[name], length, fill) for s in samples])
            else:
                batch[name] = join([sample[name] for sample in having])
        if "segment_ids" in batch:
            batch["attention_mask"] = additive_mask(batch.pop("segment_ids"), batch.pop("group_ids", None))
        return batch

    def _end_to_end(self, samples: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor | int]:
        row = chain(samples)
        position_ids = row["position_ids"]
        over_tokens = {name for name, value in row.items() if value.shape == position_ids.shape}
        batch = {
            name: value[None] if name in over_tokens else value
            for name, value in row.items()
            if name not in ("segment_ids", "group_ids")
        }
        return batch | (cumulative_lengths(position_ids) if self.with_lengths else {})

    def _pad(self, values: torch.Tensor, length: int, fill: int) -> torch.Tensor:
        missing = length - len(values)
        return F.pad(values, (missing, 0) if self.side == "left" else (0, missing), value=fill)


def pad_id(processor) -> int:
    """The id to pad with: the tokenizer's own, or its EOS, which the attention mask hides as well."""
    tokenizer = processor.tokenizer
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (tokenizer.eos_token_id or 0)
