"""A mask as COCO's run lengths: what a mask costs is its outline, not its picture."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

Window = tuple[int, int, np.ndarray]  # left, top, boolean (height, width) pixels that lie there
_BLOCK = 2**22  # pixels looked at together
_LONGEST = 7  # characters of a run: 35 bits, more than any picture has pixels


@dataclass(frozen=True, eq=False)
class Runs:
    """The pixels of a mask in a ``width`` x ``height`` picture, as positions down its columns (x * height + y).

    ``edges`` (n, 2) are the first position and the one past the last of every run of mask pixels, rising, never
    touching: equal masks have equal edges.
    """

    width: int
    height: int
    edges: np.ndarray

    @classmethod
    def of(cls, mask: np.ndarray) -> Runs:
        """Return the runs of a boolean (height, width) mask."""
        height, width = mask.shape
        step = max(1, _BLOCK // max(1, height))
        return cls.of_windows(((x, 0, mask[:, x : x + step]) for x in range(0, width, step)), width, height)

    @classmethod
    def of_windows(cls, windows: Iterable[Window], width: int, height: int) -> Runs:
        """Return the runs of a mask that is known in windows of whole columns, from left to right."""
        return cls(width, height, _joined([_edges(*window, height) for window in windows]))

    @classmethod
    def of_counts(cls, counts: Iterable[int], width: int, height: int) -> Runs:
        """Return the runs that COCO's lengths (background first) give; raises ``ValueError`` if they do not fit."""
        counts = np.asarray(counts, np.int64)
        if counts.ndim != 1 or (counts < 0).any() or (counts > width * height).any() or counts.sum() != width * height:
            raise ValueError("run lengths of another picture")
        ends = np.cumsum(counts)[1::2]
        edges = np.stack([ends - counts[1::2], ends], axis=1)
        return cls(width, height, _joined([edges[counts[1::2] > 0]]))

    @classmethod
    def read(cls, coco: dict) -> Runs:
        """Return the runs of ``{"size": [height, width], "counts": text or lengths}``, as pycocotools writes it.

        Raises ``ValueError`` for what is none.
        """
        try:
            (height, width), counts = map(int, coco["size"]), coco["counts"]
            return cls.of_counts(unpack_counts(counts) if isinstance(counts, str) else counts, width, height)
        except (KeyError, TypeError, OverflowError) as problem:
            raise ValueError(f"no run lengths of COCO: {problem!r}") from problem

    def with_pixels(self, xy: np.ndarray) -> Runs:
        """Return the mask with these (n, 2) pixels in it as well."""
        at = np.unique(xy[:, 0] * self.height + xy[:, 1])
        at = at[np.searchsorted(self.edges.ravel(), at, side="right") % 2 == 0]
        edges = np.concatenate([self.edges, np.stack([at, at + 1], axis=1)])
        return Runs(self.width, self.height, _joined([edges[np.argsort(edges[:, 0])]]))

    def coco(self) -> dict:
        """Return ``{"size": [height, width], "counts": text}``: what ``pycocotools.mask.decode`` takes."""
        return {"size": [self.height, self.width], "counts": pack_counts(self.counts())}

    def counts(self) -> np.ndarray:
        """(n,) COCO's run lengths down the columns, background first."""
        flat, pixels = self.edges.ravel(), self.width * self.height
        ends = flat if len(flat) and flat[-1] == pixels else [*flat, pixels]
        return np.diff(ends, prepend=0)

    @property
    def area(self) -> int:
        """How many pixels there are."""
        return int((self.edges[:, 1] - self.edges[:, 0]).sum())

    @cached_property
    def extent(self) -> tuple[int, int, int, int] | None:
        """The xyxy box of the pixels, in whole pixels; None of an empty mask."""
        if not len(self.edges):
            return None
        first, last = self.edges[:, 0], self.edges[:, 1] - 1
        left, right = int(first[0] // self.height), int(last[-1] // self.height) + 1
        if (first // self.height != last // self.height).any():  # a run around a column's end has both of its ends
            return left, 0, right, self.height
        return left, int((first % self.height).min()), right, int((last % self.height).max()) + 1

    def window(self) -> Window:
        """The pixels of the extent alone, which are none of an empty mask."""
        left, top, right, bottom = self.extent or (0, 0, 0, 0)
        # A run that goes on in the next column makes the extent as high as the picture: positions stay in step.
        x, y = np.divmod(self.edges - (0, 1), self.height)
        bounds = ((x - left) * (bottom - top) + y - top + (0, 1)).ravel()
        lengths = np.diff(bounds, prepend=0, append=(right - left) * (bottom - top))
        pixels = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
        return left, top, pixels.reshape(right - left, bottom - top).T

    def pixels(self) -> np.ndarray:
        """The boolean (height, width) mask."""
        mask = np.zeros((self.height, self.width), bool)
        left, top, window = self.window()
        mask[top : top + window.shape[0], left : left + window.shape[1]] = window
        return mask

    def along_rows(self) -> list[int]:
        """Lengths of the runs along the rows, background first, as the images table has them."""
        left, top, window = self.window()
        return Runs.of_windows([(top, left, window.T)], self.height, self.width).counts().tolist()


def _edges(left: int, top: int, window: np.ndarray, height: int) -> np.ndarray:
    """(n, 2) positions in the picture where the runs of each of the window's columns begin and end."""
    down, across = window.shape
    flat = np.zeros(across * (down + 1) + 1, bool)  # a pixel of nothing between two columns parts their runs
    flat[1:].reshape(across, down + 1)[:, :-1] = window.T
    x, y = np.divmod(np.flatnonzero(flat[1:] != flat[:-1]), down + 1)
    return ((left + x) * height + top + y).reshape(-1, 2)


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    """All edges, where one run begins at another's end as one run."""
    edges = np.concatenate([np.zeros((0, 2), np.int64), *parts])
    apart = edges[1:, 0] != edges[:-1, 1]
    return np.stack([edges[np.r_[True, apart][: len(edges)], 0], edges[np.r_[apart, True][: len(edges)], 1]], axis=1)


def pack_counts(counts: np.ndarray) -> str:
    """Return COCO's compressed text of run lengths: 6 bits a character, each length but three minus the one but last.

    Source: rleToString in maskApi.c of the COCO API.
    """
    left = np.array(counts, np.int64)
    left[3:] -= np.asarray(counts, np.int64)[1:-2]
    characters = np.zeros((len(left), _LONGEST), np.uint8)
    going = np.ones(len(left), bool)
    for k in range(_LONGEST):
        bits = left & 0x1F
        left >>= 5
        more = np.where(bits & 0x10, left != -1, left != 0)
        characters[going, k] = (bits + 48 + 0x20 * more)[going]
        going &= more
    if going.any():
        raise ValueError("a run longer than any picture")
    return characters[characters > 0].tobytes().decode("ascii")


def unpack_counts(text: str) -> list[int]:
    """Return the run lengths in COCO's compressed text; raises ``ValueError`` for what is none.

    Source: rleFrString in maskApi.c of the COCO API.
    """
    bits = np.frombuffer(text.encode("utf-8", "replace"), np.uint8).astype(np.int64) - 48
    last = np.flatnonzero(bits & 0x20 == 0)
    if ((bits < 0) | (bits > 0x3F)).any() or (len(bits) and (not len(last) or last[-1] != len(bits) - 1)):
        raise ValueError("no compressed run lengths")
    if not len(bits):
        return []
    first = np.r_[0, last[:-1] + 1]
    if (last - first >= _LONGEST).any():
        raise ValueError("a run longer than any picture")
    place = np.arange(len(bits)) - np.repeat(first, last - first + 1)
    values = np.add.reduceat((bits & 0x1F) << (5 * place), first)
    values -= np.where(bits[last] & 0x10, np.int64(1) << (5 * (last - first + 1)), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values.tolist()
