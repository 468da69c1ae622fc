"""Whether the vision tower inside a VLM is, number for number, that of a CLIP or SigLIP."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch

# Every CLIP-like tower has it, under this name, in transformers.
PATCHES = "embeddings.patch_embedding.weight"
# What a VLM may leave out: it reads patches of an inner layer, and no pooled vector.
POOLING = ("post_layernorm.", "head.")


@dataclass(frozen=True, slots=True)
class Comparison:
    """`same` or why not; `tensors` that were compared, and the tower's `sha256` over their names and bytes.

    `difference` is empty when all are equal.
    """

    tower: str
    tensors: int
    sha256: str
    difference: str = ""

    @property
    def same(self) -> bool:
        return not self.difference


def compare_towers(model: torch.nn.Module, clip_vision: torch.nn.Module) -> Comparison:
    """Compare the VLM's tower with `clip_vision`, the vision model of a CLIP or SigLIP in transformers.

    The tower is found by its patch embedding; the rest of its tensors must have the CLIP's names behind that. All are
    compared exactly, in the number type of the VLM: a tower stored in another is equal if the CLIP's numbers, rounded
    alike, are. What comes behind the last layer, for the pooled vector, a VLM may lack.
    """
    theirs = clip_vision.state_dict()
    prefixes = [name[: -len(PATCHES)] for name in model.state_dict() if name.endswith(PATCHES)]
    if not prefixes:
        return Comparison("", 0, "", "the model has no tower with a patch embedding as CLIP and SigLIP have it")
    found = [_compare(model, prefix, theirs) for prefix in prefixes]
    return next((each for each in found if each.same), found[0])


def _compare(model: torch.nn.Module, prefix: str, theirs: dict[str, torch.Tensor]) -> Comparison:
    ours = {name[len(prefix) :]: value for name, value in model.state_dict().items() if name.startswith(prefix)}
    tower, digest = prefix.rstrip("."), hashlib.sha256()
    lacking = sorted(name for name in theirs if name not in ours and not name.startswith(POOLING))
    more = sorted(name for name in ours if name not in theirs)
    difference = ""
    if lacking or more:
        difference = f"{(lacking or more)[0]} is in only one of them"
    for name in sorted(ours.keys() & theirs.keys()):
        mine = ours[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(mine.shape)} {mine.dtype}".encode())
        digest.update(mine.flatten().view(torch.uint8).numpy().tobytes())
        if not difference and not (
            mine.shape == theirs[name].shape and torch.equal(mine, theirs[name].cpu().to(mine.dtype))
        ):
            difference = f"{name} has other numbers"
    return Comparison(tower, len(ours.keys() & theirs.keys()), digest.hexdigest(), difference)
