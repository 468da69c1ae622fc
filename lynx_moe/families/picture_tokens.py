"""What a processor makes of one picture: the tokens that stand for it, and what its model takes of it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image

from lynx_moe.errors import FamilyError

# Processors that write the picture's token into a prompt themselves, and that cut pictures into what the model takes
# where another family's image processor does. With what they must be called besides: Fuyu's, for a model without a
# vision tower, gives its patches by an old name unless told otherwise.
PUT_THE_PICTURE_FIRST: dict[str, dict[str, Any]] = {"FuyuProcessor": {"return_legacy_image_output": False}}
OF_TEXT = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")


def is_prefix_model(processor: Any) -> bool:
    """Whether its model sees the whole prompt at once: PaliGemma's processor alone takes prompt and answer apart."""
    return "suffix" in inspect.signature(processor.__call__).parameters


def puts_picture_first(processor: Any) -> bool:
    """Whether the processor writes the picture's token and a beginning of the text by itself."""
    return _own_call(processor) is not None


def picture_alone(processor: Any, image: Image.Image) -> Mapping[str, Any]:
    """All that the processor makes of one picture and no words.

    Raises:
        FamilyError: it cannot, as it is installed.
    """
    own = _own_call(processor)
    text, options = (str(processor.image_token), {}) if own is None else ("", own)
    try:
        return processor(images=image, text=text, add_special_tokens=False, return_tensors="pt", **options)
    except TypeError as problem:
        if own is None:
            raise
        raise FamilyError(
            f"{type(processor).__name__} cannot cut pictures with {type(processor.image_processor).__name__}",
            why=f"transformers' part without torchvision was not made for its own processor: {problem}",
            fix="pip install torchvision",
        ) from problem


def picture_token_ids(processor: Any, made: Mapping[str, Any]) -> np.ndarray:
    """(P,) ids of the tokens that stand for the picture in what `picture_alone` gave."""
    ids = np.asarray(made["input_ids"][0])
    if not is_prefix_model(processor) and not puts_picture_first(processor):
        return ids
    # These processors word the whole prompt: what follows the picture's last token is the template's here.
    own = np.isin(ids, processor.image_token_ids)
    return ids[: np.flatnonzero(own)[-1] + 1]


def model_inputs_of_picture(processor: Any, image: Image.Image) -> dict[str, torch.Tensor]:
    """What the model takes of one picture.

    Raises:
        FamilyError: as `picture_alone`.
    """
    if puts_picture_first(processor):
        return {name: value for name, value in picture_alone(processor, image).items() if name not in OF_TEXT}
    # A processor has settings of its own for pictures (InternVL's cuts them into tiles whatever its image processor
    # says), by which it also counts their tokens.
    own = getattr(processor, "images_kwargs", {})
    how = {name: value for name, value in own.items() if not name.startswith("return_")}
    made = processor.image_processor(images=image, return_tensors="pt", **how)
    dropped = set(getattr(processor, "unused_input_names", ()))
    return {name: value for name, value in made.items() if name not in dropped}


def _own_call(processor: Any) -> dict[str, Any] | None:
    names = [kind.__name__ for kind in type(processor).__mro__]
    return next((PUT_THE_PICTURE_FIRST[name] for name in names if name in PUT_THE_PICTURE_FIRST), None)
