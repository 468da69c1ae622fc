import hashlib

import torch
from torch import nn

from lynx_moe.training import hashing
from lynx_moe.training.hashing import hash_base


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2).to(torch.bfloat16))


def test_hash_is_that_of_the_bytes():
    model = small()
    weight = model[0].weight
    expected = hashlib.sha256(f"{weight.dtype} {tuple(weight.shape)}".encode() + weight.detach().numpy().tobytes())
    assert hash_base(model).tensors["0.weight"] == expected.hexdigest()


def test_every_parameter_and_buffer_counts():
    assert set(hash_base(small()).tensors) == set(small().state_dict())


def test_smallest_change_of_one_value_is_seen_and_named():
    model = small()
    before = hash_base(model)
    with torch.no_grad():
        model[2].bias[1] = torch.nextafter(model[2].bias[1], torch.tensor(9.0, dtype=torch.bfloat16))
    after = hash_base(model)
    assert after.digest != before.digest and before.changed(after) == ["2.bias"]


def test_change_of_the_sign_of_zero_is_seen():
    one, other = nn.Linear(1, 1), nn.Linear(1, 1)
    nn.init.zeros_(one.weight), nn.init.constant_(other.weight, -0.0)
    assert hash_base(one).tensors["weight"] != hash_base(other).tensors["weight"]


def test_pieces_do_not_change_the_hash(monkeypatch):
    model = nn.Linear(100, 7)
    whole = hash_base(model)
    monkeypatch.setattr(hashing, "CHUNK", 24)
    assert hash_base(model) == whole


def test_same_bytes_in_another_shape_are_another_base():
    flat, tall = nn.Module(), nn.Module()
    flat.w, tall.w = nn.Parameter(torch.arange(6.0)), nn.Parameter(torch.arange(6.0).reshape(2, 3))
    assert hash_base(flat).digest != hash_base(tall).digest


def test_missing_and_extra_tensors_are_changes():
    less = small()[:1]
    assert hash_base(less).changed(hash_base(small())) == sorted(set(small().state_dict()) - {"0.weight", "0.bias"})


def test_strided_views_hash_as_what_they_show():
    plain, view = nn.Module(), nn.Module()
    plain.w = nn.Parameter(torch.arange(6.0).reshape(2, 3).T.contiguous())
    view.w = nn.Parameter(torch.arange(6.0).reshape(2, 3).T)
    assert hash_base(plain) == hash_base(view)


def test_scalar_buffer_is_hashed():
    model = small()
    before = hash_base(model)
    model[1].num_batches_tracked += 1
    assert before.changed(hash_base(model)) == ["1.num_batches_tracked"]
