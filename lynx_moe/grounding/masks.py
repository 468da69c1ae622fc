"""The one mask of the library: the pixels of one thing, in pixels of the original picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lynx_moe.errors import RecordError

_LONGEST = 7  # characters of one length: 35 bits, more than any picture has pixels


@dataclass(frozen=True, slots=True)
class Mask:
    """The visible pixels of one thing on a picture of `size` (width, height), kept as text until somebody looks.

    `counts` are COCO's compressed run lengths, what `pycocotools.mask.encode` writes, as text: runs go down the
    columns, background first.
    """

    size: tuple[int, int]
    counts: str

    @classmethod
    def of_coco(cls, coco: Mapping[str, Any]) -> Mask:
        """The mask of `{"size": [height, width], "counts": text}`; raises RecordError for what is not of that form."""
        match coco:
            case {"size": [int(height), int(width)], "counts": str(counts)}:
                return cls((width, height), counts)
        raise RecordError(
            f"no mask: {str(coco)[:80]}", why='a mask is {"size": [height, width], "counts": compressed run lengths}',
            fix="make the data again; lengths as numbers are compressed by pycocotools.mask.frPyObjects",
        )  # fmt: skip

    @classmethod
    def of_array(cls, array: np.ndarray) -> Mask:
        """The mask of (H, W) booleans, True on the thing."""
        height, width = array.shape
        flat = np.asarray(array, bool).T.reshape(-1)
        changes = np.flatnonzero(np.diff(flat, prepend=False))  # the first run is of background, perhaps of length 0
        return cls((width, height), _text(np.diff(changes, prepend=0, append=flat.size)))

    def to_coco(self) -> dict[str, Any]:
        """`{"size": [height, width], "counts": text}`, which `of_coco` reads."""
        return {"size": list(self.size[::-1]), "counts": self.counts}

    def array(self) -> np.ndarray:
        """(H, W) bool, True on the thing; decoded anew on each call.

        Raises:
            RecordError: the text is not run lengths of a picture of this size.
        """
        (width, height), lengths = self.size, self.runs()
        return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(width, height).T

    def runs(self) -> np.ndarray:
        """(n,) run lengths, of ground and thing in turn; raises RecordError as `array` does, and takes less time."""
        width, height = self.size
        lengths = _lengths(self.counts)
        if (
            lengths is None
            or (lengths < 0).any()
            or (lengths > width * height).any()
            or lengths.sum() != width * height
        ):
            raise RecordError(
                f"a mask of a {width} x {height} picture cannot be decoded",
                why=f"its run lengths do not fill the picture: {self.counts[:40]!r}",
                fix="make the data again, or look for what changed it",
            )
        return lengths


def _lengths(text: str) -> np.ndarray | None:
    """(n,) run lengths in COCO's compressed text; None where it is none.

    Six bits a character, five of a number and one for "more"; from the fourth on, a length is told as the difference
    to the one but last. Source: rleFrString in maskApi.c of the COCO API. Our own, because pycocotools is compiled for
    each platform and Python, and this is all we need of it.
    """
    bits = np.frombuffer(text.encode("utf-8", "replace"), np.uint8).astype(np.int64) - 48
    last = np.flatnonzero(bits & 0x20 == 0)
    if not len(last) or last[-1] != len(bits) - 1 or ((bits < 0) | (bits > 0x3F)).any():
        return None
    first = np.r_[0, last[:-1] + 1]
    if (last - first >= _LONGEST).any():
        return None
    place = np.arange(len(bits)) - np.repeat(first, last - first + 1)
    lengths = np.add.reduceat((bits & 0x1F) << 5 * place, first)
    lengths -= np.where(bits[last] & 0x10, np.int64(1) << 5 * (last - first + 1), 0)  # the top bit is the sign
    for start in (1, 2):  # the very first length stands alone
        lengths[start::2] = np.cumsum(lengths[start::2])
    return lengths


def _text(lengths: np.ndarray) -> str:
    """COCO's compressed text of run lengths: what `_lengths` reads. Source: rleToString in maskApi.c."""
    told = lengths.copy()
    told[3:] -= lengths[1:-2]
    found = []
    for value in told.tolist():
        more = True
        while more:
            bits = value & 0x1F
            value >>= 5
            more = value != (-1 if bits & 0x10 else 0)
            found.append(chr((bits | (0x20 if more else 0)) + 48))
    return "".join(found)
