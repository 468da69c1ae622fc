"""Models with heads that answers need, for the tests of their exports."""

import numpy as np
import torch
from PIL import Image, ImageDraw

from lynx_moe.adapter import fit_prompt_gate
from lynx_moe.objectives.attached import attach_objectives, heads_of
from tests.adapter.speaking import adapted
from tests.families.test_picture_grid import llava_cropped_with_class_token, qwen2_5_vl
from tests.tiny import CHAT_TEMPLATE, tiny_llava_with_processor

WORD = "<ring>"  # the tiny tokenizer can spell it
MASKS = {"masks": {"weight": 1.0, "blocks": 1, "channels": 8, "bce": 2.0, "dice": 0.5, "word": WORD}}
PROMPTS = {
    "prompts": {
        "weight": 1.0, "count": 4, "std": 1.0, "name": "star {n}", "box": 1.0, "point": 1.0, "mask": 1.0,
    }
}  # fmt: skip
TRAINING_ONLY = {"regions": {"weight": 1.0}}


def with_heads(vlm, heads, seed=0, **settings):
    """`vlm` with a speaking adapter and heads whose every weight is drawn, so that each of them matters."""
    model = adapted(vlm, **settings)
    attach_objectives(model, heads, seed)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for head in heads_of(model).values():
            for parameter in head.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=draw) * 0.3)
    return model


def llava(heads, **settings):
    vlm, processor = tiny_llava_with_processor()
    return with_heads(vlm, heads, **settings), processor


def cropped_llava(heads, **settings):
    vlm, processor = llava_cropped_with_class_token()
    return with_heads(vlm, heads, **settings), processor


def qwen(heads, **settings):
    """Merged tokens, as many as the picture's size asks for."""
    vlm, processor = qwen2_5_vl()
    processor.chat_template = CHAT_TEMPLATE
    return with_heads(vlm, heads, **settings), processor


def fitted(model, processor, opened, shut):
    """The prompt gate opens for one question and stays shut for others."""
    words = [f"USER: <image>\n {question} ASSISTANT:" for question in (opened, *shut)]
    prompts = [processor.tokenizer(text).input_ids for text in words]
    fit_prompt_gate(model, prompts, [True, *[False] * len(shut)])
    return model


def picture(size=(100, 60)):
    image = Image.new("RGB", size, "white")
    ImageDraw.Draw(image).rectangle((10, 10, 40, 40), fill="red")
    return image


def spot(size=(100, 60)):
    """A mask of an ellipse."""
    image = Image.new("1", size)
    ImageDraw.Draw(image).ellipse((50, 20, 90, 50), fill=1)
    return np.array(image)


BUILDERS = {"padded to a square": llava, "cropped, behind a class token": cropped_llava, "merged tokens": qwen}
