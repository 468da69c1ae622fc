"""Qwen2.5-VL's boxes: `{"bbox_2d": [x1, y1, x2, y2], "label": "cat"}` in pixels after its resize (arXiv 2502.13923)."""

from __future__ import annotations

from lynx_moe.families.dialects.base import DIALECTS
from lynx_moe.families.dialects.geometry import Geometry, Size
from lynx_moe.families.dialects.json_objects import JsonDialect
from lynx_moe.families.dialects.smart_resize import SmartResize


@DIALECTS.register("qwen2_5_vl")
class Qwen25VLDialect(JsonDialect):
    """Absolute pixels of the picture as the processor's `smart_resize` leaves it, not of the picture as it is stored.

    That is the trap of this family (QwenLM/Qwen3-VL issues 721, 957): sides become multiples of 28 within a budget of
    pixels, so both depend on the picture and on the processor's `min_pixels` and `max_pixels`, which are read from it.
    `quantum` holds for the smallest picture; `resolution` says it for each. A point is `point_2d`.

    Args:
        resize: the processor's rule; None when pictures keep their size.

    >>> Qwen25VLDialect().encode((0, 0, 640, 240), (640, 480))
    '{"bbox_2d": [0, 0, 644, 238]}'
    """

    name = "qwen2_5_vl"
    families = ("qwen2_5_vl", "qwen2_5_omni_thinker")
    of_picture = True
    quantum = 1 / 28

    def __init__(self, geometry: Geometry | None = None, resize: SmartResize | None = SmartResize()):
        super().__init__(geometry)
        self.resize = resize

    @classmethod
    def from_processor(cls, processor: object) -> Qwen25VLDialect:
        """The dialect in the pixels that `processor` makes.

        Raises:
            FamilyError: it does not resize as Qwen's processors do.
        """
        return cls(Geometry.from_processor(processor), SmartResize.from_processor(processor))

    def steps_of(self, size: Size) -> Size:
        return self.resize(size) if self.resize else size

    def resolution(self, size: Size) -> tuple[float, float]:
        width, height = self.steps_of(size)
        return size[0] / width, size[1] / height
