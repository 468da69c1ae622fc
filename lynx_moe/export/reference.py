"""What the live model answers on a few inputs, saved so that any later reload can be compared with it."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from safetensors.torch import save_file

from lynx_moe.adapter.gate_context import set_gate
from lynx_moe.errors import ExportError
from lynx_moe.export.fresh import REFERENCE, answer

UNDERSTANDING = "Describe the picture."
GROUNDING = "Find the red square. Let's think step by step."

# The logits of the last positions have seen the whole prompt; more would only make the folder bigger (our choice).
POSITIONS = 64


def example_inputs(processor) -> dict[str, dict[str, torch.Tensor]]:
    """An understanding prompt, a grounding prompt, and both as one left-padded batch, about a drawn picture.

    Raises:
        ExportError: there is no processor to make inputs with.
    """
    if processor is None:
        raise ExportError(
            "nothing to compare the export with",
            why="without a processor no inputs can be made",
            fix="pass processor=..., or examples={name: model inputs}",
        )
    picture = Image.new("RGB", (224, 168), "white")
    ImageDraw.Draw(picture).rectangle((40, 60, 90, 110), fill="red")
    ImageDraw.Draw(picture).ellipse((130, 30, 190, 90), fill="blue")
    prompts = {"understanding": [UNDERSTANDING], "grounding": [GROUNDING], "both": [UNDERSTANDING, GROUNDING]}
    return {name: _encode(processor, picture, questions) for name, questions in prompts.items()}


def _encode(processor, picture, questions: list[str]) -> dict[str, torch.Tensor]:
    texts = [_prompt(processor, question) for question in questions]
    tokenizer = processor.tokenizer
    side, tokenizer.padding_side = tokenizer.padding_side, "left"
    try:
        batch = processor(text=texts, images=[[picture] for _ in texts], padding=len(texts) > 1, return_tensors="pt")
    finally:
        tokenizer.padding_side = side
    return {name: value for name, value in batch.items() if isinstance(value, torch.Tensor)}


def _prompt(processor, question: str) -> str:
    if getattr(processor, "chat_template", None):
        turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}
        return processor.apply_chat_template([turn], tokenize=False, add_generation_prompt=True)
    return f"{processor.image_token}\n{question}"


def record(peft_model, examples: dict, folder: Path, *, force_gate_on: bool, new_tokens: int) -> dict:
    """Run the live model on `examples` and save inputs, logits and greedy tokens as safetensors in `folder`.

    Returns:
        dict for the manifest: dtype, number of new tokens, size of the largest logit.
    """
    was_training = peft_model.training
    peft_model.eval()
    tensors, largest = {}, 0.0
    try:
        with set_gate(peft_model, True) if force_gate_on else nullcontext():
            for case, inputs in examples.items():
                logits, generated = answer(peft_model, inputs, POSITIONS, new_tokens)
                largest = max(largest, logits.abs().max().item())
                tensors |= {f"{case}|inputs|{name}": value.cpu().contiguous().clone() for name, value in inputs.items()}
                tensors |= {f"{case}|logits": logits.contiguous(), f"{case}|generated": generated.contiguous()}
    finally:
        peft_model.train(was_training)
    save_file(tensors, folder / REFERENCE)
    dtype = str(next(peft_model.parameters()).dtype).removeprefix("torch.")
    return {"dtype": dtype, "new_tokens": new_tokens, "largest_logit": largest, "cases": sorted(examples)}
