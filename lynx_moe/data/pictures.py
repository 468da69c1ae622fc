"""Prepared pictures kept in memory, as bytes where that loses nothing."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np
import torch
import torch.nn.functional as F

Made = dict[str, torch.Tensor]


class PictureCache:
    """Remembers what an image processor made of each picture, until `limit_bytes` are used; then it makes the rest
    anew.

    Rescaling and normalising are undone before storing, when that gives whole bytes back (a quarter of the memory of
    float32, exact up to float rounding); other tensors are stored as they are.

    Args:
        image_processor: for its mean, deviation and rescale factor.
        limit_bytes: memory to use at most; 0 remembers nothing.
    """

    def __init__(self, image_processor, limit_bytes: int):
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self._kept: dict[Hashable, dict[str, torch.Tensor | np.ndarray]] = {}
        normalised = getattr(image_processor, "do_normalize", False)
        mean, std = (image_processor.image_mean, image_processor.image_std) if normalised else ([0.0], [1.0])
        self._mean = torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1)
        self._std = torch.tensor(std, dtype=torch.float32).view(-1, 1, 1)
        self._scale = image_processor.rescale_factor if getattr(image_processor, "do_rescale", False) else 1.0

    def get(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """What `make()` returns for the picture `key`, from memory if it is there."""
        closed = self._kept.get(key)
        if closed is None:
            closed = {name: self._close(value) for name, value in make().items()}
            size = sum(value.nbytes for value in closed.values())
            if self.used_bytes + size <= self.limit_bytes:
                self._kept[key] = closed
                self.used_bytes += size
        # Opened also when it was just made: a sample must not depend, to the last bit, on what happened before.
        return {name: self._open(value) for name, value in closed.items()}

    def _close(self, value: torch.Tensor) -> torch.Tensor | np.ndarray:
        """uint8 arrays mark what was turned back into bytes."""
        channels = len(self._mean)
        if not value.is_floating_point() or value.ndim < 3 or (channels > 1 and value.shape[-3] != channels):
            return value
        exact = (value.float() * self._std + self._mean) / self._scale
        whole = exact.round()
        if (exact - whole).abs().max() > 0.01 or whole.min() < 0 or whole.max() > 255:
            return value
        return whole.to(torch.uint8).numpy()

    def _open(self, value: torch.Tensor | np.ndarray) -> torch.Tensor:
        if isinstance(value, torch.Tensor):
            return value
        return (torch.from_numpy(value).float() * self._scale - self._mean) / self._std


def side_by_side(made: Sequence[Made]) -> Made:
    """What an image processor made of several pictures, as one sample has them: joined along the first axis."""
    names = dict.fromkeys(name for each in made for name in each)
    return {name: join([each[name] for each in made if name in each]) for name in names}


def join(pictures: Sequence[torch.Tensor]) -> torch.Tensor:
    """`pictures` along their first axis, filled up with zeros to the largest of each further axis."""
    if len(pictures) == 1:
        return pictures[0]
    if len({tuple(p.shape[1:]) for p in pictures}) > 1:
        largest = [max(sizes) for sizes in zip(*(p.shape[1:] for p in pictures), strict=True)]
        pictures = [F.pad(p, _at_the_ends(p.shape[1:], largest)) for p in pictures]
    return torch.cat(list(pictures))


def _at_the_ends(sizes: Sequence[int], largest: Sequence[int]) -> list[int]:
    """What `F.pad` wants, last axis first: nothing before, the missing part behind."""
    missing = [most - size for size, most in zip(sizes, largest, strict=True)]
    return [amount for behind in reversed(missing) for amount in (0, behind)]
