"""Next-token cross-entropy on the answer: the paper's one and only loss.

Source: arXiv 2410.10491, `L = - sum_i log P(t_i | image tokens, t_<i)`, over the tokens of the stepwise answer. Weights
per token are our choice; without them it is the paper's.
"""

import torch
import torch.nn.functional as F


def answer_nats(logits_TV: torch.Tensor, target_T: torch.Tensor, weight_T: torch.Tensor | None = None) -> torch.Tensor:
    """Summed, if asked weighted, cross-entropy in nats, in float32; 0, with a gradient of 0, when there is no token.

    A sum, because only the caller knows over how many tokens of how many micro-batches and devices the mean goes.

    >>> answer_nats(torch.zeros(2, 4), torch.tensor([0, 3]))      # two uniform guesses among four: 2 ln 4
    tensor(2.7726)
    """
    nats_T = F.cross_entropy(logits_TV.float(), target_T, reduction="none")
    return (nats_T if weight_T is None else weight_T * nats_T).sum()
