"""Patches weighed by a text and turned by their place, against the published formulas written out."""

import math

import pytest
import torch
import torch.nn.functional as F

from lynx_moe.ops.patch_pooling import pacl_cosine, rotary


def made(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_rotary_is_a_turn_of_each_pair_by_the_raster_place():
    x = made(1, 6, 8)
    found = rotary(x)
    for place in range(6):
        for k in range(4):
            angle = place * 10000 ** (-2 * k / 8)
            turned = complex(x[0, place, k], x[0, place, k + 4]) * complex(math.cos(angle), math.sin(angle))
            assert complex(found[0, place, k], found[0, place, k + 4]) == pytest.approx(turned, abs=1e-5)


def test_rotary_changes_no_length_and_products_tell_only_how_far_two_patches_are_apart():
    assert torch.allclose(rotary(made(2, 9, 8)).norm(dim=-1), made(2, 9, 8).norm(dim=-1), atol=1e-5)
    same = made(1, 1, 8).expand(1, 9, 8)
    turned = rotary(same)[0]
    products = turned @ turned.T
    for apart in range(1, 4):
        assert torch.allclose(products.diagonal(apart), products[0, apart].expand(9 - apart), atol=1e-4)


def test_pacl_is_the_cosine_of_the_sum_of_patches_weighed_by_sigmoids_of_their_own():
    patches, texts = made(3, 5, 7), made(2, 7, seed=1)
    found = pacl_cosine(patches, texts)
    for n in range(3):
        for m in range(2):
            weights = torch.sigmoid(10 * F.cosine_similarity(patches[n], texts[m][None], dim=-1))
            picture = sum(w * patch for w, patch in zip(weights, patches[n], strict=True))
            assert found[n, m].item() == pytest.approx(F.cosine_similarity(picture, texts[m], dim=0).item(), abs=1e-5)


def test_without_rotary_the_order_of_patches_says_nothing_and_with_it_it_does():
    patches, texts = made(1, 6, 8), made(2, 8, seed=1)
    shuffled = patches[:, torch.tensor([3, 1, 5, 0, 2, 4])]
    torch.testing.assert_close(pacl_cosine(shuffled, texts), pacl_cosine(patches, texts))
    assert not torch.allclose(pacl_cosine(rotary(shuffled), texts), pacl_cosine(rotary(patches), texts), atol=1e-3)
