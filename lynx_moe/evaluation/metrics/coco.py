"""What the COCO API does for us, by faster-coco-eval, a kept and faster drop-in for pycocotools: AP, and masks.

Nothing else here imports that package: `pip install "lynx-moe[evaluate]"` brings it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lynx_moe.errors import ConfigError
from lynx_moe.evaluation.metrics.detected import Detected

COCO_LIMITS = (1, 10, 100)  # boxes of a category in a picture, the last for AP
LVIS_LIMITS = (300,)  # boxes in a picture
MOST_PAIRS = 500_000  # pictures times categories that are evaluated at once
FREQUENCIES = {"r": "ap_rare", "c": "ap_common", "f": "ap_frequent"}


def coco_average_precision(
    pictures: Sequence[Detected], categories: Mapping[int, Mapping[str, Any]], federated: bool = False
) -> dict[str, Any]:
    """COCO's AP over boxes (Lin et al. 2014; cocoeval.py), or LVIS's (Gupta et al. 2019; lvis-api eval.py).

    Args:
        categories: id to a row with `name`, and for LVIS's three groups with `frequency` ("r", "c" or "f").
        federated: LVIS's rules. A found box of a category that is neither marked in the picture nor known to be absent
            does not count; one of an `unsure` category that hits nothing does not either.

    Returns:
        `ap` (mean over IoU 0.50 to 0.95 and categories), `ap50`, `ap75`, `ap_small`, `ap_medium`, `ap_large`, `recall`
        (AR at the last limit), `by_category` (name to AP); federated also `ap_rare`, `ap_common`, `ap_frequent`. None
        where nothing is there to be found.

    Raises:
        ConfigError: faster-coco-eval is not installed.
    """
    ids = sorted(categories)
    precision_TRKA, recall_TK = _evaluated(pictures, categories, ids, federated)
    whole_TRK = precision_TRKA[..., 0]
    numbers: dict[str, Any] = {
        "ap": _mean(whole_TRK),
        "ap50": _mean(whole_TRK[0]),
        "ap75": _mean(whole_TRK[5]),
        **{f"ap_{name}": _mean(precision_TRKA[..., k]) for k, name in enumerate(("small", "medium", "large"), start=1)},
        "recall": _mean(recall_TK),
    }
    if federated and all("frequency" in row for row in categories.values()):
        of = np.array([categories[key]["frequency"] for key in ids])
        numbers |= {name: _mean(whole_TRK[..., of == letter]) for letter, name in FREQUENCIES.items()}
    numbers["by_category"] = {
        str(categories[key]["name"]): value
        for k, key in enumerate(ids)
        if (value := _mean(whole_TRK[..., k])) is not None
    }
    return numbers


def _evaluated(
    pictures: Sequence[Detected], categories: Mapping[int, Mapping[str, Any]], ids: Sequence[int], federated: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Precision (T, R, K, A) by IoU level, recall, category and area (all, small, medium, large); recall (T, K).

    The evaluator keeps something for every pair of a picture and a category, six gigabytes for 5000 pictures of LVIS;
    so it is shown some categories at a time.
    """
    library = _library()
    truth = library.COCO(_truth(pictures, categories), print_function=_quiet)
    run = library.COCOeval_faster(
        truth, truth.loadRes(_found(pictures)), "bbox", print_function=_quiet, lvis_style=federated
    )
    run.params.maxDets = list(LVIS_LIMITS if federated else COCO_LIMITS)
    at_once = max(1, MOST_PAIRS // max(1, len(pictures)))
    precision, recall = [], []
    for start in range(0, len(ids), at_once):
        run.params.catIds = list(ids[start : start + at_once])
        run.evaluate()
        run.accumulate()
        precision.append(run.eval["precision"][..., -1])
        recall.append(run.eval["recall"][..., 0, -1])
    return np.concatenate(precision, axis=2), np.concatenate(recall, axis=1)


def mask_of(segmentation: list | dict, size: tuple[int, int]) -> np.ndarray:
    """The boolean (height, width) mask of a COCO segmentation, drawn as the COCO API draws it.

    Args:
        segmentation: polygons [[x, y, x, y, ..], ..] in pixels, or run lengths {"size": [height, width], "counts":
            numbers or compressed text}. No polygon is an empty mask.
        size: (width, height).

    Raises:
        ConfigError: faster-coco-eval is not installed.
        ValueError: a polygon with fewer than three corners or a number that is not finite, or run lengths of another
            picture.
    """
    width, height = size
    if isinstance(segmentation, Mapping):
        runs = segmentation.get("counts")
        if list(segmentation.get("size") or ()) != [height, width] or not isinstance(runs, str | bytes | list):
            raise ValueError("run lengths of another picture")
        if isinstance(runs, list) and (min(runs, default=-1) < 0 or sum(runs) != width * height):
            raise ValueError("run lengths that do not fill the picture")
        segmentation = dict(segmentation)
    else:
        segmentation = [[float(value) for value in polygon] for polygon in segmentation]
        if not segmentation:
            return np.zeros((height, width), bool)
        if any(len(p) < 6 or len(p) % 2 or not np.isfinite(p).all() for p in segmentation):
            raise ValueError("a polygon with fewer than three corners, or a corner that is no number")
    masks = _library().mask
    return masks.decode(masks.segmToRle(segmentation, width, height)).astype(bool).reshape(height, width)


def _truth(pictures: Sequence[Detected], categories: Mapping[int, Mapping[str, Any]]) -> dict:
    annotations = [
        {
            "image_id": number,
            "category_id": category,
            "bbox": _xywh(box),
            "iscrowd": int(crowd),
            "area": float(area),
        }
        for number, picture in enumerate(pictures, start=1)
        for box, category, crowd, area in zip(
            picture.true_boxes, picture.true_categories, picture.crowds, picture.areas, strict=True
        )
    ]
    return {
        "images": [
            {
                "id": number,
                "width": picture.size[0],
                "height": picture.size[1],
                "neg_category_ids": sorted(picture.absent),
                "not_exhaustive_category_ids": sorted(picture.unsure),
            }
            for number, picture in enumerate(pictures, start=1)
        ],
        # Ids from 1: an id of 0 means "not matched" in the evaluator.
        "annotations": [{"id": k, **one} for k, one in enumerate(annotations, start=1)],
        # The evaluator asks for a frequency, also where nobody looks at what it makes of it.
        "categories": [{"frequency": "f", **row, "id": key} for key, row in categories.items()],
    }


def _found(pictures: Sequence[Detected]) -> list[dict]:
    return [
        {"image_id": number, "category_id": category, "bbox": _xywh(box), "score": float(confidence)}
        for number, picture in enumerate(pictures, start=1)
        for box, category, confidence in zip(
            picture.found_boxes, picture.found_categories, picture.confidences, strict=True
        )
    ]


def _xywh(box: Sequence[float]) -> list[float]:
    x1, y1, x2, y2 = box
    return [float(x1), float(y1), float(x2 - x1), float(y2 - y1)]


def _mean(values: np.ndarray) -> float | None:
    """COCO writes -1 where there is nothing to be found."""
    told = values[values > -1]
    return float(told.mean()) if told.size else None


def _quiet(*_: object, **__: object) -> None:
    """The evaluator tells its progress to this."""


def _library() -> Any:
    try:
        import faster_coco_eval
    except ImportError as missing:
        raise ConfigError(
            "faster-coco-eval is not installed",
            why="average precision and masks are computed by it",
            fix='pip install "lynx-moe[evaluate]"',
        ) from missing
    return faster_coco_eval
