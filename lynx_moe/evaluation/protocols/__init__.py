"""Benchmarks in their own file formats, scored as their authors score them.

A new one is one file here with a class that `PROTOCOLS.register` files, and one line below.
"""

from lynx_moe.evaluation.protocols import (  # noqa: F401  (registers them)
    coco_detection,
    flickr30k_entities,
    gqa,
    grefcoco,
    grounded_caption,
    mmbench,
    mmvp,
    pairwise,
    perbench,
    pin,
    pope,
    records,
    refcoco,
    refcoco_segmentation,
    scienceqa,
    spatial,
    two_by_two,
    voc_detection,
    vqa,
    vsr,
    whatsup,
)
from lynx_moe.evaluation.protocols.base import PROTOCOLS, Item, Protocol, Reply, Row, Score, Write

__all__ = ["PROTOCOLS", "Item", "Protocol", "Reply", "Row", "Score", "Write"]
