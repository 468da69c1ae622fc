"""How a picture's patch features become what is compared with a text: weighed by the text, or turned by their place.

Legend of shape suffixes: `N` pictures, `M` texts, `P` patches in raster order, `D` width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def rotary(x_NPD: Tensor, base: float = 10000.0) -> Tensor:
    """(N, P, D) features turned by their place among the patches, in pairs (i, i + D/2), the i-th by `base`^(-2i/D).

    One index over the raster, as in lst627/CLIP-Embeds (arXiv 2411.05195), not one for each axis. No length changes.

    Args:
        x_NPD: D even.
    """
    half = x_NPD.shape[-1] // 2
    turn_F = base ** (-torch.arange(half, device=x_NPD.device) / half)
    angle_PF = torch.arange(x_NPD.shape[1], device=x_NPD.device)[:, None] * turn_F
    cos, sin = angle_PF.cos().to(x_NPD), angle_PF.sin().to(x_NPD)
    one, two = x_NPD[..., :half], x_NPD[..., half:]
    return torch.cat([one * cos - two * sin, two * cos + one * sin], dim=-1)


def pacl_cosine(patch_NPD: Tensor, text_MD: Tensor, scale: float = 10.0) -> Tensor:
    """(N, M) cosine of each text with the picture as that text weighs it: sum over p of a_p * patch_p.

    a_p = sigmoid(`scale` * cos(patch_p, text)): PACL as in lst627/CLIP-Embeds. The weights are not normalised; a cosine
    does not see it.
    """
    text_MD = F.normalize(text_MD, dim=-1)
    weight_NMP = (scale * torch.einsum("npd,md->nmp", F.normalize(patch_NPD, dim=-1), text_MD)).sigmoid()
    return torch.einsum("nmd,md->nm", F.normalize(weight_NMP @ patch_NPD, dim=-1), text_MD)
