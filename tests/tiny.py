"""Tiny vision-language models built from their transformers configs: real architectures, no network, fast.

Every function returns `(model, inputs)`: the model in eval mode with fixed-seed weights, and a batch of two prompts
of different length (left-padded, as for generation), each with one picture.
"""

from __future__ import annotations

import torch
import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

VOCAB = 128
PAD, BOS, EOS, IMAGE = 0, 1, 2, 3
TEXT = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
}
VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}

WORDS = (
    "find point to the a an where is are of what how many there colour color shape any red green blue yellow black "
    "white orange purple small large big left right above below cat dog star circle square triangle ring apple car "
    "tree house person ball cup step look at in on it yes no none one two three four five answer describe picture "
    "image Find Step Where What Let 's think by Yes No The user assistant system USER ASSISTANT"
).split()
PUNCTUATION = list(".,:;?![](){}<>-'\"/%_=+") + ["\n", " "]


def _prompts(image_tokens: list[int], seed: int = 0) -> dict[str, torch.Tensor]:
    """Two prompts, the first three tokens shorter and left-padded."""
    draw = torch.Generator().manual_seed(seed)
    rows = [[BOS, *image_tokens, *torch.randint(10, VOCAB, (n,), generator=draw).tolist()] for n in (5, 8)]
    longest = max(map(len, rows))
    input_ids = torch.tensor([[PAD] * (longest - len(r)) + r for r in rows])
    return {"input_ids": input_ids, "attention_mask": (input_ids != PAD).long()}


def _pixels(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def _build(model_class: type, config: transformers.PreTrainedConfig) -> transformers.PreTrainedModel:
    # The initialiser draws from the global stream: borrow it, and give it back as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = model_class(config).eval()
        with torch.no_grad():
            # The usual 0.02 leaves a 32-wide model's logits almost flat; larger weights make every test able to fail.
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(3.0)
    if model.can_generate():
        model.generation_config.eos_token_id = None  # generation tests want every step
    # As PEFT will have it. torch picks another matmul for a weight that requires gradients (also under no_grad), so a
    # base measured before its weights are frozen differs from itself afterwards in the last bit.
    return model.requires_grad_(False)


def llava_config(**text: object) -> transformers.LlavaConfig:
    """LLaVA-1.5 shape: CLIP tower, MLP projector, Llama decoder; 16 image tokens for a 32-pixel square."""
    return transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**VISION, image_size=32, patch_size=8, projection_dim=32),
        text_config=transformers.LlamaConfig(**{**TEXT, **text}),
        image_token_index=IMAGE,
        image_seq_length=16,
        vision_feature_layer=-1,
    )


def tiny_llava(**text: object) -> tuple[transformers.LlavaForConditionalGeneration, dict[str, torch.Tensor]]:
    """Plain rotary positions, one decoder under `model.language_model`."""
    model = _build(transformers.LlavaForConditionalGeneration, llava_config(**text))
    return model, {**_prompts([IMAGE] * 16), "pixel_values": _pixels(2, 3, 32, 32)}


QWEN_TOKENS = {"image_token_id": IMAGE, "video_token_id": 4, "vision_start_token_id": 5, "vision_end_token_id": 6}


def qwen_inputs() -> dict[str, torch.Tensor]:
    """Prompts with one picture of 4 x 4 flattened patches each, as the Qwen-VL line takes them."""
    inputs = _prompts([5, *[IMAGE] * 4, 6])
    inputs["mm_token_type_ids"] = (inputs["input_ids"] == IMAGE).long()
    inputs["pixel_values"] = _pixels(2 * 16, 3 * 2 * 4 * 4)
    inputs["image_grid_thw"] = torch.tensor([[1, 4, 4], [1, 4, 4]])
    return inputs


def tiny_qwen2_5_vl() -> tuple[transformers.Qwen2_5_VLForConditionalGeneration, dict[str, torch.Tensor]]:
    """Three-axis rotary positions, dynamic picture size, flattened patches."""
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "out_hidden_size": 32,
        "patch_size": 4,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 16,
        "fullatt_block_indexes": [1],
    }
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    config = transformers.Qwen2_5_VLConfig(
        vision_config=vision,
        text_config={**TEXT, "rope_parameters": rope},
        **QWEN_TOKENS,
    )
    model = _build(transformers.Qwen2_5_VLForConditionalGeneration, config)
    return model, qwen_inputs()


def tiny_smolvlm() -> tuple[transformers.SmolVLMForConditionalGeneration, dict[str, torch.Tensor]]:
    """Pixel-shuffled patches, a picture axis in `pixel_values`, decoder under `model.text_model`."""
    config = transformers.SmolVLMConfig(
        vision_config={**VISION, "image_size": 32, "patch_size": 8},
        text_config={"model_type": "llama", **TEXT},
        image_token_id=IMAGE,
        scale_factor=2,
        pad_token_id=PAD,
    )
    model = _build(transformers.SmolVLMForConditionalGeneration, config)
    inputs = _prompts([IMAGE] * 4)
    inputs["pixel_values"] = _pixels(2, 1, 3, 32, 32)
    inputs["pixel_attention_mask"] = torch.ones(2, 1, 32, 32, dtype=torch.bool)
    return model, inputs


def tiny_internvl() -> tuple[transformers.InternVLForConditionalGeneration, dict[str, torch.Tensor]]:
    """InternViT tower and a Qwen2 decoder."""
    config = transformers.InternVLConfig(
        vision_config={**VISION, "image_size": [32, 32], "patch_size": [8, 8]},
        text_config={"model_type": "qwen2", **TEXT},
        image_token_id=IMAGE,
        image_seq_length=4,
        downsample_ratio=0.5,
    )
    model = _build(transformers.InternVLForConditionalGeneration, config)
    return model, {**_prompts([IMAGE] * 4), "pixel_values": _pixels(2, 3, 32, 32)}


def tiny_llava_moe() -> tuple[transformers.LlavaForConditionalGeneration, dict[str, torch.Tensor]]:
    """A LLaVA whose decoder is Qwen2-MoE: the frozen experts are a whole MoE block."""
    text = transformers.Qwen2MoeConfig(
        **TEXT, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, shared_expert_intermediate_size=32
    )
    config = llava_config()
    config = transformers.LlavaConfig(
        vision_config=config.vision_config,
        text_config=text,
        image_token_index=IMAGE,
        image_seq_length=16,
        vision_feature_layer=-1,
    )
    model = _build(transformers.LlavaForConditionalGeneration, config)
    return model, {**_prompts([IMAGE] * 16), "pixel_values": _pixels(2, 3, 32, 32)}


CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() + ':' }}"
    "{% if message['content'] is string %}{{ ' ' + message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ ' <image>\n' }}{% else %}{{ ' ' + part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ '</s>' }}{% else %}{{ ' ' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def tiny_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """Words, single digits, punctuation and `<unk>`. Every space is a token, so text survives a round trip."""
    specials = ["<pad>", "<s>", "</s>", "<image>", "<unk>"]
    vocabulary = specials + [str(d) for d in range(10)] + PUNCTUATION + WORDS
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(dict.fromkeys(vocabulary))}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\s"), "isolated"),
            pre_tokenizers.Digits(True),
            pre_tokenizers.Punctuation("isolated"),
        ]
    )
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in specials])
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    return wrapped


def tiny_llava_with_processor() -> tuple[transformers.LlavaForConditionalGeneration, transformers.LlavaProcessor]:
    """A tiny LLaVA and a processor that pads pictures to a square, as LLaVA-1.5's original training did."""
    tokenizer = tiny_tokenizer()
    image_processor = transformers.LlavaImageProcessorPil(
        do_pad=True,
        do_center_crop=False,
        size={"height": 32, "width": 32},
        crop_size={"height": 32, "width": 32},
    )
    processor = transformers.LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        image_token="<image>",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
    model = _build(transformers.LlavaForConditionalGeneration, llava_config(vocab_size=len(tokenizer)))
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return model, processor
