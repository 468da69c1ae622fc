"""Which width a new expert gets when nobody says."""

from __future__ import annotations

import math


def divisors(number: int) -> list[int]:
    """All divisors, ascending.

    >>> divisors(12)
    [1, 2, 3, 4, 6, 12]
    """
    small = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    return small + [number // d for d in reversed(small) if d * d != number]


def default_expert_width(ffn_width: int, num_experts: int) -> int:
    """The divisor of the base's FFN width that is nearest to an even share: all new experts together are one FFN.

    A divisor, because hosts such as glm4_moe need the frozen FFN's width to be a whole number of expert widths; a
    multiple of 8 where one exists, because grouped matmul wants rows of 16 bytes. Nearest in ratio; ties go up.
    Our choice.

    >>> default_expert_width(11008, 4), default_expert_width(4864, 4), default_expert_width(64, 4)
    (2752, 1216, 16)
    """
    share = ffn_width / num_experts
    candidates = divisors(ffn_width)
    candidates = [d for d in candidates if d % 8 == 0] or candidates
    return min(candidates, key=lambda d: (abs(math.log(d / share)), -d))
