"""The size that Qwen's image processors bring a picture to: sides in multiples of a patch, pixels within bounds.

The formula is `smart_resize` of Qwen2-VL (transformers, `models/qwen2_vl/image_processing_qwen2_vl.py`), without its
refusal of pictures 200 times as long as wide: there the processor itself is the one to refuse.
"""

from __future__ import annotations

import inspect
import math
import sys
from dataclasses import dataclass

from lynx_moe.errors import FamilyError
from lynx_moe.families.dialects.geometry import Size

PARAMETERS = ["height", "width", "factor", "min_pixels", "max_pixels"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SmartResize:
    """Qwen's rule, by default with Qwen2.5-VL's published numbers.

    Args:
        factor: side, in pixels, of what becomes one token of the language model; both sides become multiples of it.
        min_pixels: least width x height.
        max_pixels: greatest width x height.
    """

    factor: int = 28
    min_pixels: int = 56 * 56
    max_pixels: int = 28 * 28 * 1280

    @classmethod
    def from_processor(cls, processor: object) -> SmartResize | None:
        """The rule as this processor (or image processor) is set; None when it leaves sizes alone.

        Raises:
            FamilyError: it resizes by another rule.
        """
        images = getattr(processor, "image_processor", processor)
        modules = [sys.modules.get(base.__module__) for base in type(images).__mro__]
        rule = next((module.smart_resize for module in modules if hasattr(module, "smart_resize")), None)
        if rule is None or list(inspect.signature(rule).parameters) != PARAMETERS:
            raise FamilyError(
                f"cannot tell to how many pixels {type(images).__name__} resizes a picture",
                why="boxes in absolute pixels need Qwen's smart_resize, and this processor has another rule",
                fix="choose a dialect that counts in fractions of the picture",
            )
        if not getattr(images, "do_resize", True):
            return None
        return cls(
            factor=images.patch_size * images.merge_size,
            min_pixels=_bound(images, "shortest_edge", "min_pixels"),
            max_pixels=_bound(images, "longest_edge", "max_pixels"),
        )

    def __call__(self, size: Size) -> Size:
        """Width and height after the resize of a picture of `size` (width, height).

        >>> SmartResize()((640, 480))
        (644, 476)
        """
        width, height = size
        new_width, new_height = (round(side / self.factor) * self.factor for side in (width, height))
        if new_width * new_height > self.max_pixels:
            scale = math.sqrt(width * height / self.max_pixels)
            return tuple(max(self.factor, math.floor(side / scale / self.factor) * self.factor) for side in size)
        if new_width * new_height < self.min_pixels:
            scale = math.sqrt(self.min_pixels / (width * height))
            return tuple(math.ceil(side * scale / self.factor) * self.factor for side in size)
        return new_width, new_height


def _bound(images: object, edge: str, name: str) -> int:
    """A bound of the pixels: newer processors call it an edge of `size`, older ones by its name."""
    size = getattr(images, "size", None) or {}
    read = size.get if isinstance(size, dict) else lambda key: getattr(size, key, None)
    return int(read(edge) or read(name) or getattr(images, name))
