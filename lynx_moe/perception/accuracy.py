"""Individual, pair and set accuracy of scores, and what chance gets of them."""

from __future__ import annotations

import numpy as np

# Two captions a picture, drawn independently: a half, its square, its fourth power. Who looks at the texts alone says
# the same of both pictures of a pair, and gets 1/2, 0 and 0.
CHANCE = {"individual": 1 / 2, "pair": 1 / 4, "set": 1 / 16, "left_right": 1 / 4, "above_below": 1 / 4}


def accuracies(true_SK: np.ndarray, other_SK: np.ndarray) -> dict[str, float]:
    """Shares of pictures, pairs of opposite pictures and sets that are right, and of pairs along each axis.

    As in arXiv 2411.05195: a picture is right if its caption scores higher than the opposite one, strictly.

    Args:
        true_SK, other_SK: scores of the true and the opposite caption of picture K (left, right, above, below) of
            set S.

    >>> accuracies(np.array([[2.0, 2.0, 2.0, 0.0]]), np.array([[1.0, 1.0, 1.0, 1.0]]))["pair"]
    0.5
    """
    right_SK = true_SK > other_SK
    pair_S2 = right_SK.reshape(-1, 2, 2).all(-1)
    found = {"individual": right_SK, "pair": pair_S2, "set": pair_S2.all(-1)}
    found |= {"left_right": pair_S2[:, 0], "above_below": pair_S2[:, 1]}
    return {name: float(values.mean()) for name, values in found.items()}
