"""What the live model answers on a few inputs, saved so that any later reload can be compared with it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from safetensors.torch import save_file

from lynx_moe.adapter import predict_prompt_gate, prompt_gate_head
from lynx_moe.adapter.gate_context import set_gate
from lynx_moe.adapter.prompt_gate import prompt_mask
from lynx_moe.data import Record, SampleBuilder
from lynx_moe.errors import ExportError
from lynx_moe.evaluation import prompt_batches
from lynx_moe.export.fresh import REFERENCE, answer, tensor_sha256
from lynx_moe.families.dialects import Dialect

UNDERSTANDING = "Describe the picture."
GROUNDING = "Find the red square. Let's think step by step."

# The logits of the last positions have seen the whole prompt; more would only make the folder bigger (our choice).
POSITIONS = 64
HELD_OUT = 4  # records that logits are compared on; answers are compared on all of them (our choice)


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
    picture = drawn_picture()
    prompts = {"understanding": [UNDERSTANDING], "grounding": [GROUNDING], "both": [UNDERSTANDING, GROUNDING]}
    return {name: _encode(processor, picture, questions) for name, questions in prompts.items()}


def drawn_picture() -> Image.Image:
    picture = Image.new("RGB", (224, 168), "white")
    ImageDraw.Draw(picture).rectangle((40, 60, 90, 110), fill="red")
    ImageDraw.Draw(picture).ellipse((130, 30, 190, 90), fill="blue")
    return picture


def random_inputs(base: torch.nn.Module, like: dict[str, torch.Tensor], seed: int = 0) -> dict[str, torch.Tensor]:
    """Inputs of the same shapes with random words and random pixels: what no prompt of ours would ever reach.

    Tokens that stand for pictures or padding stay where they are.
    """
    draw = torch.Generator().manual_seed(seed)
    ids_BL = like["input_ids"].cpu()
    every_id = torch.arange(base.get_input_embeddings().weight.shape[0])
    words = every_id[prompt_mask(base, every_id[None].to(base.device))[0].cpu()]
    drawn_BL = words[torch.randint(len(words), ids_BL.shape, generator=draw)]
    mask = like.get("attention_mask")
    here_BL = prompt_mask(base, ids_BL.to(base.device)).cpu()
    if mask is not None and mask.shape == ids_BL.shape:
        here_BL &= mask.cpu().bool()
    inputs = {
        name: torch.randn(value.shape, generator=draw).to(value.dtype) if value.is_floating_point() else value
        for name, value in like.items()
    }
    return inputs | {"input_ids": torch.where(here_BL, drawn_BL, ids_BL)}


def held_out_inputs(processor, dialect: Dialect, records: Sequence[Record]) -> dict[str, torch.Tensor]:
    """The first `HELD_OUT` of held-out records as one left-padded batch of prompts."""
    builder = SampleBuilder(processor, dialect)
    _, batch = next(prompt_batches(builder, list(records[:HELD_OUT]), HELD_OUT))
    return dict(batch)


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
        dict for the manifest: dtype, number of new tokens and of CPU threads, size of the largest logit; "gates", the
        settings that the exported prompt gate can take; "shut", by case whether a fitted gate is shut in each row;
        "adapter_off", by case the hash of the logits without the adapter.
    """
    was_training = peft_model.training
    peft_model.eval()
    tensors, largest, off, shut = {}, 0.0, {}, {}
    fitted = prompt_gate_head(peft_model).is_fitted
    try:
        for case, inputs in examples.items():
            with set_gate(peft_model, True) if force_gate_on else nullcontext():
                logits, generated = answer(peft_model, inputs, POSITIONS, new_tokens)
            largest = max(largest, logits.abs().max().item())
            tensors |= {f"{case}|inputs|{name}": value.cpu().contiguous().clone() for name, value in inputs.items()}
            tensors |= {f"{case}|logits": logits.contiguous(), f"{case}|generated": generated.contiguous()}
            with peft_model.disable_adapter():
                off[case] = tensor_sha256(answer(peft_model, inputs, POSITIONS, 0)[0])
            if fitted:
                shut[case] = _shut_rows(peft_model, inputs)
    finally:
        peft_model.train(was_training)
    save_file(tensors, folder / REFERENCE)
    dtype = str(next(peft_model.parameters()).dtype).removeprefix("torch.")
    return {
        "dtype": dtype,
        "attention": attention_of(peft_model.get_base_model().config),
        "new_tokens": new_tokens,
        # Matrix products are split among threads, and each number of them rounds otherwise.
        "threads": torch.get_num_threads(),
        "largest_logit": largest,
        "cases": sorted(examples),
        "gates": ["on"] if force_gate_on else ["off", *(["auto"] if fitted else []), "on"],
        "shut": shut,
        "adapter_off": off,
    }


def _shut_rows(peft_model, inputs: dict[str, torch.Tensor]) -> list[bool]:
    """Whether the fitted prompt gate is shut, row by row."""
    ids_BL, mask_BL = inputs["input_ids"], inputs.get("attention_mask")
    if mask_BL is None or mask_BL.shape != ids_BL.shape:
        mask_BL = torch.ones_like(ids_BL)
    prompts = [ids[mask.bool()].tolist() for ids, mask in zip(ids_BL, mask_BL, strict=True)]
    return [logit <= 0 for logit in predict_prompt_gate(peft_model, prompts)]


def attention_of(config) -> str | dict | None:
    """Which attention each part of a model computes, as `from_pretrained(attn_implementation=...)` takes it: parts of
    one model may differ, and some know only one.
    """
    own = getattr(config, "_attn_implementation", None)
    parts = {name: getattr(config, name, None) for name in config.sub_configs}
    parts = {name: attention_of(part) for name, part in parts.items() if part is not None}
    return {"": own, **parts} if parts else own
