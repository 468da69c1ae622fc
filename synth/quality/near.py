"""Pictures that look alike, found without comparing every picture with every other.

Two hashes of 64 bits that differ in at most ``threshold`` bits differ in at most ``threshold // 4`` bits in one of
their four quarters. So hashes are looked up by quarter, in a table of 65,536 places each, with that many bits turned
(multi-index hashing, Norouzi, Punjani and Fleet 2012).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import numpy as np

from synth.errors import SettingsError

THRESHOLD = 6  # bits: a resized, re-encoded or brightened picture stays below, other photographs lie around 32
_SECOND = 10  # bits of the second hash: copies differed in 5 at most, false pairs of the first in 19 and more
_LARGEST = 15  # beyond, unrelated pictures begin to meet
_QUARTERS, _WIDTH = 4, 16
_AT_ONCE = 2_000_000  # candidate pairs compared at a time: some 50 MB


def groups(hashes: Iterable[tuple[str, tuple[int, int]]], threshold: int = THRESHOLD) -> dict[str, str]:
    """Return for every file the name of its group: the smallest file name among the pictures that look like it.

    Files whose hashes lie near each other (see ``close_pairs``) share a group, also by a chain of such files; a file
    that looks like no other is its own group. To keep near-duplicates on one side, choose the split by the group's name
    instead of the file's: ``split_of(groups[file], val_fraction)``. A new picture may give a group a smaller name.

    Args:
        hashes: file name and ``hashes.picture_hashes`` of it, in any order.
        threshold: 0 to 15 bits.

    Raises:
        SettingsError: the threshold is outside that range.
    """
    by_hash: dict[tuple[int, int], str] = {}
    files: list[tuple[str, tuple[int, int]]] = []
    for file, value in hashes:
        files.append((file, value))
        by_hash[value] = min(file, by_hash.get(value, file))
    values = np.array(sorted(by_hash), np.uint64).reshape(-1, 2)
    parent = list(range(len(values)))

    def root(k: int) -> int:
        while parent[k] != k:
            parent[k] = parent[parent[k]]
            k = parent[k]
        return k

    for one, other, _ in close_pairs(values, threshold):
        for i, j in zip(one.tolist(), other.tolist(), strict=True):
            parent[root(i)] = root(j)
    smallest: dict[int, str] = {}
    roots = {}
    for k, value in enumerate(map(tuple, values.tolist())):
        roots[value] = root(k)
        smallest[roots[value]] = min(by_hash[value], smallest.get(roots[value], by_hash[value]))
    return {file: smallest[roots[value]] for file, value in files}


def close_pairs(values: np.ndarray, threshold: int = THRESHOLD) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield every pair whose first hashes lie within ``threshold`` bits once, in pieces of bounded size.

    The second hashes only rule out what the first find: they may differ in ``second_threshold(threshold)`` bits.

    Args:
        values: (N, 2) uint64. Give each pair of hashes once: a thousand equal ones have half a million pairs.
        threshold: 0 to 15 bits.

    Yields:
        Positions i, positions j (i < j) and distances of the first in bits: three (M,) integer arrays.
    """
    check_threshold(threshold)
    values, second = np.asarray(values, np.uint64).reshape(-1, 2).T
    quarters = [
        ((values >> np.uint64(_WIDTH * q)) & np.uint64(2**_WIDTH - 1)).astype(np.int64) for q in range(_QUARTERS)
    ]
    radius = threshold // _QUARTERS
    masks = [
        sum(1 << bit for bit in bits) for r in range(radius + 1) for bits in itertools.combinations(range(_WIDTH), r)
    ]
    for q, keys in enumerate(quarters):
        order = np.argsort(keys, kind="stable")
        starts = np.concatenate([[0], np.cumsum(np.bincount(keys, minlength=2**_WIDTH))])
        for mask in masks:
            first, past = starts[keys ^ mask], starts[(keys ^ mask) + 1]
            for rows in _pieces(past - first):
                lengths = (past - first)[rows]
                one = np.repeat(rows, lengths)
                offset = np.arange(len(one)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
                other = order[np.repeat(first[rows], lengths) + offset]
                apart = np.bitwise_count(values[one] ^ values[other]).astype(np.int64)
                found = (one < other) & (apart <= threshold)
                found &= np.bitwise_count(second[one] ^ second[other]) <= second_threshold(threshold)
                for before in quarters[:q]:  # found there already
                    found &= np.bitwise_count(before[one] ^ before[other]) > radius
                if found.any():
                    yield one[found], other[found], apart[found]


def second_threshold(threshold: int) -> int:
    """Return in how many bits second hashes may differ: more than copies of a picture ever did that the first found."""
    return max(_SECOND, threshold + 4)


def check_threshold(threshold: int) -> None:
    """Raise ``SettingsError`` unless the threshold is a whole number from 0 to 15."""
    if type(threshold) is not int or not 0 <= threshold <= _LARGEST:
        raise SettingsError(
            f"threshold={threshold!r} is not a whole number from 0 to {_LARGEST}",
            why="it counts bits of 64 in which two pictures that look alike may differ; unrelated ones differ in 32",
            fix=f"threshold={THRESHOLD}",
        )


def _pieces(lengths: np.ndarray) -> Iterator[np.ndarray]:
    """Divide the rows that have any candidates into runs of at most ``_AT_ONCE`` candidates, at least one row each."""
    rows = np.flatnonzero(lengths)
    totals = np.cumsum(lengths[rows])
    start = 0
    while start < len(rows):
        before = totals[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(totals, before + _AT_ONCE, "right")))
        yield rows[start:stop]
        start = stop
