"""What the tokens of each step weigh in a stepwise answer.

In the paper (arXiv 2410.10491, figure) the losses of the steps are added unweighted, which is the default. Weights per
step are our choice.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch


def step_weights(in_step: torch.Tensor, steps: Sequence[float], answer: float = 1.0) -> torch.Tensor:
    """Float weight of every token, of the shape of `in_step`.

    Args:
        in_step: integers: 1, 2, .. for the tokens of a step, -1 for those of the step that is the answer, 0 for others,
            which weigh 1.
        steps: weight of step 1, 2, ..; the last goes on for later ones. Empty: all weigh 1.
        answer: weight of the answer, whatever its number.

    >>> step_weights(torch.tensor([0, 1, 2, 3, -1]), [0.5, 2.0], answer=3.0)
    tensor([1.0000, 0.5000, 2.0000, 2.0000, 3.0000])
    """
    # Looked up by number: 0 is no step, the last place is what -1 counts to from behind.
    table = torch.tensor([1.0, *(steps or [1.0]), answer], device=in_step.device)
    return table[torch.where(in_step < 0, len(table) - 1, in_step.clamp(max=len(table) - 2)).long()]
