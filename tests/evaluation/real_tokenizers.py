"""Real tokenizers of five kinds, built here, each with special tokens that are marks and others that are not."""

from __future__ import annotations

import json
from collections.abc import Sequence

import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from tests.tiny import tiny_tokenizer

TEXT = [
    'The star is at [10, 25, 100, 75]. A cat {"bbox_2d": [12, 30, 256, 1000], "label": "cat"} and 0.25, 0.50!',
    "[0.10, 0.20, 0.30, 0.40] (12,34),(56,78) naïve café 東京 星 🌟 <loc_12> </poly>",
] * 4
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]
NAMES = dict(zip(("pad_token", "bos_token", "eos_token", "unk_token"), SPECIAL, strict=True))


def byte_level() -> transformers.PreTrainedTokenizerFast:
    """BPE over bytes, as GPT-2, Llama 3 and Qwen: a character may be several tokens, a token several digits."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=340, initial_alphabet=alphabet, special_tokens=SPECIAL, show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **NAMES)


def sentence_piece() -> transformers.PreTrainedTokenizerFast:
    """BPE with "▁" for spaces and tokens for the bytes of rare characters, as Llama 2 and Gemma."""
    learned = Tokenizer(models.BPE())
    letters = [chr(k) for k in range(33, 127)]
    trainer = trainers.BpeTrainer(vocab_size=150, initial_alphabet=letters, limit_alphabet=100, show_progress=False)
    learned.train_from_iterator([text.replace(" ", "▁") for text in TEXT], trainer)
    model = json.loads(learned.to_str())["model"]
    rare = set("東京星🌟")
    tokens = [token for token in model["vocab"] if not rare & set(token)]
    vocabulary = {token: k for k, token in enumerate([*SPECIAL, *(f"<0x{k:02X}>" for k in range(256)), *tokens])}
    merges = [tuple(pair) for pair in model["merges"] if {*pair, "".join(pair)} <= vocabulary.keys()]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **NAMES)


def word_piece() -> transformers.PreTrainedTokenizerFast:
    """Words and their "##" parts, as BERT, BLIP and GIT."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(TEXT, trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **NAMES)


def of_bytes() -> transformers.ByT5Tokenizer:
    """Written in Python: not of the tokenizers library."""
    return transformers.ByT5Tokenizer(extra_ids=0)


KINDS = {
    "byte level": byte_level,
    "sentence piece": sentence_piece,
    "word piece": word_piece,
    "python": of_bytes,
    "words": tiny_tokenizer,
}


def with_marks(kind: str, marks: Sequence[str], *, special: bool = True):
    """One of `KINDS` that also knows `marks`, as special tokens or as ordinary added ones (PaliGemma's)."""
    tokenizer = KINDS[kind]()
    added = [AddedToken(mark, special=special, normalized=False) for mark in marks]
    tokenizer.add_tokens(added, special_tokens=special)
    return tokenizer


def all_marks(dialect) -> list[str]:
    """Every token that the marks of a dialect stand for."""
    tries = [f"<loc{k:04}>" for k in range(1024)] + [f"<seg{k:03}>" for k in range(128)]
    tries += [f"<loc_{k}>" for k in range(1000)] + [f"<patch_index_{k:04}>" for k in range(1024)]
    tries += ["<poly>", "</poly>", "<sep>", "</delimiter_of_multi_objects/>"]
    found = []
    for mark in dialect.marks:
        found += [mark] if isinstance(mark, str) else [each for each in tries if mark.fullmatch(each)]
    return found
