"""One changed byte is found without the original: which file, which byte, which element of which tensor."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lynx_moe.export.tampering import BLOCK, FileHash, describe, tensors_at, where


def changed(path, places: dict[int, int]):
    """The findings after XOR-ing bytes of the file."""
    before, data = FileHash.of(path), bytearray(path.read_bytes())
    for place, by in places.items():
        data[place] ^= by
    path.write_bytes(data)
    return where(path, before, FileHash.of(path))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "some.bin"
    path.write_bytes(np.random.default_rng(0).bytes(3 * BLOCK + 1234))
    return path


@pytest.mark.parametrize("by", [1, 0x80, 0xFF])
def test_any_single_byte_is_named_with_its_old_value(file, by):
    draw = np.random.default_rng(by)
    size = file.stat().st_size
    for place in [0, BLOCK - 1, BLOCK, size - 1, *draw.integers(size, size=20).tolist()]:
        was = file.read_bytes()[place]
        (change,) = changed(file, {place: by})
        assert (change.start, change.stop, change.was) == (place, place + 1, was)


def test_a_byte_in_each_of_two_blocks_and_two_in_one(file):
    found = changed(file, {5: 3, 2 * BLOCK + 9: 7})
    assert [change.start for change in found] == [5, 2 * BLOCK + 9]
    (block,) = changed(file, {BLOCK + 5: 3, BLOCK + 900: 7})
    assert (block.start, block.stop, block.was) == (BLOCK, 2 * BLOCK, None)


def test_shorter_and_longer_files(file):
    before = FileHash.of(file)
    file.write_bytes(file.read_bytes()[:-1])
    (change,) = where(file, before, FileHash.of(file))
    assert change.stop == before.size and change.start == 3 * BLOCK


def test_tensor_and_element_are_named(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"a.weight": torch.zeros(4, 6), "b.weight": torch.ones(3, 5, 2)}, path)
    data = path.read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    place = begin + 4 * 6 * 4 + (2 * 10 + 3 * 2 + 1) * 4 + 2
    found = changed(path, {place: 0x10})
    assert describe(path, found) == [
        f"byte {place} is 0x90 and was 0x80: tensor b.weight, offset 110, element [2, 3, 1]"
    ]
    assert tensors_at(path, found) == [{"tensor": "b.weight", "offset": 110}]
    path.write_bytes(data)
    assert describe(path, changed(path, {begin - 1: 0x41}))[0].startswith(f"byte {begin - 1} is 0x61 and was 0x20")
