"""Rows filled with pieces of known length."""

import random
from itertools import islice

import pytest

from lynx_moe.data.filling import fill


def lengths(count: int, seed: int = 0) -> list[tuple[int, int]]:
    drawn = random.Random(seed)
    return [(k, min(700, int(drawn.lognormvariate(4.5, 0.6)))) for k in range(count)]


@pytest.mark.parametrize("window", [1, 16, 64])
def test_every_piece_is_in_one_row_and_no_row_is_too_full(window):
    pieces = lengths(2000)
    rows = list(fill(pieces, 512, window=window))
    assert sorted(k for row in rows for k in row) == list(range(2000))
    sums = [sum(pieces[k][1] for k in row) for row in rows]
    assert all(total <= 512 or len(row) == 1 for total, row in zip(sums, rows, strict=True))


def test_rows_are_nearly_full_and_fuller_the_more_are_open():
    pieces = [piece for piece in lengths(5000) if piece[1] <= 512]
    fewest = sum(length for _, length in pieces) / 512
    share = [fewest / len(list(fill(pieces, 512, window=window))) for window in (1, 8, 64)]
    assert share == sorted(share) and share[-1] > 0.98


def test_the_same_pieces_give_the_same_rows_in_the_same_order():
    assert list(fill(lengths(500), 300)) == list(fill(iter(lengths(500)), 300))


def test_endless_pieces_pass_through():
    def endless():
        k = 0
        while True:
            k += 1
            yield k, 30 + k * 7919 % 200

    rows = list(islice(fill(endless(), 256, window=8), 2000))
    # No more than the open rows were held back.
    assert max(k for row in rows for k in row) - sum(map(len, rows)) <= 8 * 256 // 30
