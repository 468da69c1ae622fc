"""The denoiser: nothing at the start, each token by its own state, and blind to what fills up a batch."""

import pytest
import torch

from lynx_moe.objectives.denoiser import Denoiser, Regressor


def awake_denoiser() -> Denoiser:
    """As after some training: no weight is zero any more."""
    torch.manual_seed(0)
    net = Denoiser(states=6, channels=4, width=16, depth=2, heads=2)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net


def inputs(pictures: int = 2, tokens: int = 6) -> list[torch.Tensor]:
    place = torch.cartesian_prod(torch.arange(2), torch.arange(tokens // 2)).float().expand(pictures, -1, -1)
    times = torch.arange(pictures) * 100
    is_token = torch.ones(pictures, tokens, dtype=torch.bool)
    return [torch.randn(pictures, tokens, 4), times, torch.randn(pictures, tokens, 6), place, is_token]


def test_a_fresh_denoiser_tells_nothing_and_its_first_error_is_the_noises_variance():
    net = Denoiser(states=6, channels=4, width=16, depth=3, heads=2)
    assert not net(*inputs()).any()
    assert not any(block.modulation.weight.any() for block in net.blocks) and not net.modulation.weight.any()
    assert net.of_token.weight.std().item() == pytest.approx(0.02, rel=0.4)


def test_tokens_that_fill_up_change_nothing():
    net, (noisy, time, states, place, is_token) = awake_denoiser(), inputs()
    alone = net(noisy, time, states, place, is_token)
    filled = [torch.cat([each, torch.randn(2, 3, each.shape[-1])], dim=1) for each in (noisy, states, place)]
    more = torch.cat([is_token, torch.zeros(2, 3, dtype=torch.bool)], dim=1)
    torch.testing.assert_close(net(filled[0], time, filled[1], filled[2], more)[:, :6], alone, rtol=1e-4, atol=1e-5)


def test_a_picture_is_told_as_it_is_alone():
    net, batch = awake_denoiser(), inputs(3)
    together = net(*batch)
    for k in range(3):
        torch.testing.assert_close(net(*(each[k : k + 1] for each in batch))[0], together[k], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("changed", [0, 1, 2, 3], ids=["noise", "time", "state", "place"])
def test_each_input_matters(changed):
    net, batch = awake_denoiser(), inputs()
    before = net(*batch)
    batch[changed] = batch[changed] + 1 + torch.arange(batch[changed].shape[-1])
    assert (net(*batch) - before).abs().max() > 1e-4


def test_a_tokens_state_modulates_that_token_most():
    net, batch = awake_denoiser(), inputs(1)
    before = net(*batch)
    batch[2] = batch[2].clone()
    batch[2][0, 4] = torch.randn(6)
    moved = (net(*batch) - before).abs().sum(-1)[0]
    assert moved.argmax() == 4


def test_size_of_a_states_vector_does_not_matter_but_its_direction():
    net, batch = awake_denoiser(), inputs()
    before = net(*batch)
    batch[2] = 100 * batch[2]
    torch.testing.assert_close(net(*batch), before, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", [Denoiser, Regressor])
def test_no_picture_gives_every_parameter_a_gradient_of_zero(kind):
    if kind is Denoiser:
        net = awake_denoiser()
        told = net(*(each[:0] for each in inputs()))
    else:
        net = Regressor(states=6, channels=4, width=16)
        told = net(torch.zeros(0, 1, 6))
    told.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in net.parameters())
