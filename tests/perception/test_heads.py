"""Heads as CLIP has them: which of them can know where things lie, and that each learns."""

import pytest
import torch

from lynx_moe.perception.heads import CLASS, KINDS, TEMPERATURE, Head, train_head

WIDTH, TEXTS = 8, torch.tensor([[1, 2, 3], [1, 3, 2], [2, 1, 0]])


def head_of(kind, texts=TEXTS):
    torch.manual_seed(0)
    return Head(kind, WIDTH, texts.float() if kind.reads == "frozen" else texts).eval()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_only_heads_with_rope_see_the_order_of_patches(kind):
    head, patches = head_of(kind), torch.randn(2, 6, WIDTH)
    if head.query is not None:
        torch.nn.init.normal_(head.query)
    seen, shuffled = (head(each, torch.arange(3)) for each in (patches, patches.flip(1)))
    assert seen.shape == (2, 3) and (seen.abs() <= 1 + 1e-5).all()
    assert torch.allclose(seen, shuffled, atol=1e-4) is not kind.rope


@pytest.mark.parametrize("kind", [*KINDS, CLASS], ids=lambda kind: kind.name)
def test_every_head_learns_to_tell_its_pictures(kind):
    head = head_of(kind, torch.eye(3) * 5 if kind.reads == "frozen" else TEXTS)
    seen = torch.randn(3, WIDTH) if kind.looks == "class" else torch.randn(3, 4, WIDTH)
    train_head(head, seen, torch.arange(3), [[0, 1, 2]] * 150)
    assert (head(seen, torch.arange(3)).argmax(1) == torch.arange(3)).all() and not head.training


def test_padding_of_a_text_changes_nothing_of_it():
    head = head_of(KINDS[0])
    short, padded = (head.encoder(torch.tensor([ids])) for ids in ([2, 1], [2, 1, 0]))
    torch.testing.assert_close(short, padded, rtol=1e-4, atol=1e-5)
    assert TEMPERATURE == 0.1
