"""Retention: on answers that are not about grounding, stay with the base's own next-token distribution.

KL(base || adapted) asks the adapted model to give weight wherever the base does, which is what not forgetting means.
The base is the same network with the adapter off, so the teacher costs one more forward and no more memory.
Our choice: the paper has no such term, its prompt classifier alone keeps the old skill.
"""

import torch
import torch.nn.functional as F


def retention_nats(adapted_TV: torch.Tensor, base_TV: torch.Tensor) -> torch.Tensor:
    """Summed KL(base || adapted) in nats, in float32, always at least 0; 0 when there is no token.

    Args:
        adapted_TV: logits that get the gradient.
        base_TV: logits of the base; no gradient flows into them.

    >>> same = torch.tensor([[1.0, 2.0, 3.0]])
    >>> retention_nats(same, same).item()
    0.0
    """
    adapted_TV = F.log_softmax(adapted_TV.float(), dim=-1)
    base_TV = F.log_softmax(base_TV.detach().float(), dim=-1)
    return F.kl_div(adapted_TV, base_TV, reduction="sum", log_target=True)
