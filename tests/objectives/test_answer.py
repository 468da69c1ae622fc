import math

import torch

from lynx_moe.objectives.answer import answer_nats


def test_answer_nats_is_minus_the_log_probability_of_the_targets():
    logits = torch.tensor([[1.0, 2.0, 0.5], [0.0, 0.0, 3.0]])
    expected = 0.0
    for row, target in zip(logits.tolist(), (1, 0), strict=True):
        expected -= math.log(math.exp(row[target]) / sum(math.exp(v) for v in row))
    assert abs(answer_nats(logits, torch.tensor([1, 0])).item() - expected) < 1e-6


def test_answer_nats_of_no_token_is_zero_and_still_has_a_graph():
    logits = torch.randn(0, 5, requires_grad=True)
    loss = answer_nats(logits, torch.zeros(0, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0.0 and logits.grad.shape == (0, 5)


def test_answer_nats_is_computed_in_float32_whatever_comes_in():
    logits = torch.randn(64, 300, dtype=torch.bfloat16)
    target = torch.randint(300, (64,))
    exact = torch.nn.functional.cross_entropy(logits.double(), target, reduction="sum")
    assert answer_nats(logits, target).dtype == torch.float32
    assert abs(answer_nats(logits, target).item() - exact.item()) < 1e-3
