"""The one place where a reply becomes a mask."""

from __future__ import annotations

import numpy as np

from lynx_moe.evaluation.metrics.coco import mask_of
from lynx_moe.evaluation.protocols.base import Reply
from lynx_moe.evaluation.protocols.picture_files import Size


def reply_mask(reply: Reply, size: Size, from_box: bool) -> np.ndarray:
    """What a reply covers of a picture of `size` (width, height), as a boolean (height, width) mask.

    All its polygons together, drawn as the COCO API draws them, which may be parts of one thing; where it has none, all
    masks that a mask head drew. With `from_box` the inside of its first box, where it has neither. Empty when it has
    nothing, or nothing that can be drawn.
    """
    masks = [mask.array() for mask in reply.masks if mask is not None]
    if masks and not reply.parsed.polygons:
        return np.any(masks, axis=0)
    polygons = [
        [value for point in polygon for value in point] for polygon in reply.parsed.polygons if len(polygon) > 2
    ]
    if not polygons and from_box and reply.parsed.boxes:
        x1, y1, x2, y2 = reply.parsed.boxes[0].clip(size)
        polygons = [[x1, y1, x2, y1, x2, y2, x1, y2]]
    try:
        return mask_of(polygons, size)
    except ValueError:
        return np.zeros(size[::-1], bool)
