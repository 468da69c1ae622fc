"""Asks about small painted pictures."""

from __future__ import annotations

import numpy as np
from PIL import Image

from lynx_moe.evaluation.protocols import Score

TEXTS = ("a red dog", "the large blue circle left of the ring", "two cats")


def picture(seed: int) -> Image.Image:
    """Noise that is the same for a seed; sizes differ."""
    draw = np.random.default_rng(seed)
    return Image.fromarray(draw.integers(0, 255, (40, 30 + 5 * seed, 3), dtype=np.uint8))


def ask(seed: int, text: str, question: str = "") -> Score:
    return Score(image_id=f"p{seed}", load=lambda: picture(seed), text=text, question=question)


def asks() -> list[Score]:
    return [ask(seed, text, question) for seed in range(3) for text in TEXTS for question in ("", "what colour is it?")]
