"""A tiny Fuyu with its processor: no vision tower, and a tokenizer that begins with an underscore, as SentencePiece."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from lynx_moe.families.templates import give_template
from tests.tiny import PUNCTUATION, TEXT, WORDS, _build

UNDERSCORE = "▁"
PIECES = ["|SPEAKER|", "|NEWLINE|", *(f"<0x0{k}>" for k in range(5))]
CUTS_ARRAYS = transformers.FuyuImageProcessorPil.patchify_image


def cuts_tensors(self, image, patch_size=None):
    return torch.from_numpy(CUTS_ARRAYS(self, np.asarray(image), patch_size))


@pytest.fixture
def fuyu_cuts(monkeypatch):
    """Without torchvision, transformers 5.23 cuts arrays only, and its own processor hands it tensors."""
    monkeypatch.setattr(transformers.FuyuImageProcessorPil, "patchify_image", cuts_tensors)


def fuyu_tokenizer() -> transformers.PreTrainedTokenizerFast:
    specials = ["<pad>", "<s>", "|ENDOFTEXT|", "<unk>"]
    words = [*specials, *PIECES, UNDERSCORE, *(str(d) for d in range(10)), *PUNCTUATION, *WORDS, "It"]
    words = dict.fromkeys(word for word in words if word != " ")
    tokenizer = Tokenizer(models.WordLevel({word: k for k, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(UNDERSCORE), normalizers.Replace(" ", UNDERSCORE)])
    pieces = r"\|SPEAKER\||\|NEWLINE\||<0x0\d>"
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(rf"{pieces}|▁|\n|\d|[^\w\s]|[^\W\d]+"), "isolated")
    tokenizer.decoder = decoders.Sequence([decoders.Replace(UNDERSCORE, " "), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(each, special=True, normalized=False) for each in specials])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="|ENDOFTEXT|", unk_token="<unk>",
        padding_side="left", clean_up_tokenization_spaces=False,
    )  # fmt: skip


def tiny_fuyu_with_processor() -> tuple[transformers.FuyuForCausalLM, transformers.FuyuProcessor]:
    """Pictures of at most 40 x 40 in patches of 8; smaller ones keep their size."""
    tokenizer = fuyu_tokenizer()
    images = transformers.FuyuImageProcessorPil(size={"height": 40, "width": 40}, patch_size={"height": 8, "width": 8})
    processor = transformers.FuyuProcessor(image_processor=images, tokenizer=tokenizer)
    give_template(processor)
    text = {**TEXT, "vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    config = transformers.FuyuConfig(
        **text, text_config={**text, "model_type": "persimmon"}, patch_size=8, image_token_id=processor.image_token_id
    )
    model = _build(transformers.FuyuForCausalLM, config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = 0
    return model, processor
