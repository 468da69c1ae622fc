"""Boxes and masks on pictures: what they are, how they overlap, and how to look at them. Nothing here knows a model."""

from lynx_moe.grounding.box import Box, iou
from lynx_moe.grounding.drawing import draw
from lynx_moe.grounding.masks import Mask
from lynx_moe.grounding.sheet import SheetCell, contact_sheet

__all__ = ["Box", "Mask", "SheetCell", "contact_sheet", "draw", "iou"]
