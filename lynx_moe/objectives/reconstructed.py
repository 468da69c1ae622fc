"""Pictures as a trained reconstruction head tells them from their tokens' states: for looking at, not for answering."""

from __future__ import annotations

import torch
from torch import Tensor

from lynx_moe.objectives.reconstruction import Reconstruction
from lynx_moe.objectives.seen import Pictures
from lynx_moe.ops.diffusion import cosine_alpha_bar, predicted_clean

FARTHEST = 4.0  # latents have variance 1; what is told from noise alone may lie anywhere


@torch.no_grad()
def reconstructed(head: Reconstruction, seen: Pictures, *, steps: int = 50, seed: int = 0) -> list[Tensor]:
    """(3, H, W) float32 in 0..1 of each picture, from its tokens' states alone.

    Where the head denoises, from noise in `steps` steps without fresh noise (DDIM, Song et al. 2021, equation 12 with
    eta 0), times evenly spread; the clean tokens on the way are held within four deviations (ours).

    Raises:
        ConfigError: the tokenizer has no way back to a picture.
    """
    told_PNC = _denoised(head, seen, steps, seed) if head.denoises else head.net(seen.states_PND)
    sized = zip(told_PNC, seen.grids, strict=True)
    made = [head.picture(told_NC[: rows * columns], (rows, columns)) for told_NC, (rows, columns) in sized]
    return [each.clamp(0, 1) for each in made]


def _denoised(head: Reconstruction, seen: Pictures, steps: int, seed: int) -> Tensor:
    device, shape = seen.states_PND.device, (*seen.is_token_PN.shape, head.tokenizer.channels)
    noisy_PNC = torch.randn(shape, generator=torch.Generator(device).manual_seed(seed), device=device)
    alpha_bar_S = cosine_alpha_bar().to(device)
    # The last step but one is the first to be taken: nothing at all is left at the last.
    times = torch.linspace(len(alpha_bar_S) - 2, 0, steps).long().tolist()
    for time, later in zip(times, [*times[1:], None], strict=True):
        left_P = alpha_bar_S[time].expand(len(noisy_PNC))
        time_P = torch.full((len(noisy_PNC),), time, device=device)
        noise_PNC = head.net(noisy_PNC, time_P, seen.states_PND, seen.place_PN2, seen.is_token_PN)
        clean_PNC = predicted_clean(noisy_PNC, noise_PNC, left_P).clamp(-FARTHEST, FARTHEST)
        if later is None:
            return clean_PNC
        noise_PNC = (noisy_PNC - left_P[0].sqrt().float() * clean_PNC) / (1 - left_P[0]).sqrt().float()
        kept = alpha_bar_S[later].float()
        noisy_PNC = kept.sqrt() * clean_PNC + (1 - kept).sqrt() * noise_PNC
    return noisy_PNC
