"""What a model's tokens say: their text without special tokens, but for the marks that its spelling of boxes needs."""

from __future__ import annotations

import os
import re
from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache

Mark = str | re.Pattern[str]


def spoken(ids: Sequence[int], ends: Sequence[int], tokenizer, marks: Sequence[Mark] = ()) -> tuple[str, list[int]]:
    """An answer's text and its tokens, without what follows the first token that ends it.

    Args:
        ids: what was generated.
        ends: tokens that end an answer.
        tokenizer: any of transformers.
        marks: the special tokens that stay in the text, `Dialect.marks`: a string is one, a pattern stands for all that
            it matches in full.
    """
    length = next((k for k, token in enumerate(ids) if token in ends), len(ids))
    kept = list(ids[:length])
    return text_of(kept, tokenizer, marks).strip(), kept


def text_of(ids: Sequence[int], tokenizer, marks: Sequence[Mark] = ()) -> str:
    """The text of tokens without special ones that are no marks."""
    silent = unspoken(tokenizer, tuple(marks))
    return tokenizer.decode([token for token in ids if token not in silent])


def unspoken(tokenizer, marks: tuple[Mark, ...]) -> frozenset[int]:
    """Ids of the special tokens that are no marks."""
    return _unspoken(tokenizer, len(tokenizer), marks)


@lru_cache(maxsize=16)
def _unspoken(tokenizer, size: int, marks: tuple[Mark, ...]) -> frozenset[int]:
    # A tokenizer may know special tokens by their role (EOS, PAD), by a flag of the token, or by both.
    flagged = {id for id, token in getattr(tokenizer, "added_tokens_decoder", {}).items() if token.special}
    ids = flagged | set(tokenizer.all_special_ids)
    names = dict(zip(ids, tokenizer.convert_ids_to_tokens(list(ids)), strict=True))
    return frozenset(id for id, name in names.items() if not any(_is(name, mark) for mark in marks))


def _is(name: str, mark: Mark) -> bool:
    return name == mark if isinstance(mark, str) else mark.fullmatch(name) is not None


def ending_token(ids: Sequence[int], text: str, end: int, tokenizer, marks: Sequence[Mark] = ()) -> int:
    """Which token writes the character before `end` of `text`, the stripped text of `ids`; found by halving."""
    whole = text_of(ids, tokenizer, marks)
    wanted = end + len(whole) - len(whole.lstrip())

    def written(count: int) -> int:
        return len(os.path.commonprefix([text_of(ids[:count], tokenizer, marks), whole]))

    return bisect_left(range(1, len(ids)), wanted, key=written)


def token_spans(ids: Sequence[int], text: str, tokenizer, marks: Sequence[Mark] = ()) -> list[tuple[int, int]]:
    """Which characters of `text`, the stripped text of `ids`, each token writes.

    A token that only begins a character (of several bytes) writes none, the one that completes it writes it; a special
    token that is no mark writes none.
    """
    whole = text_of(ids, tokenizer, marks)
    shift = len(whole) - len(whole.lstrip())
    spans, begin = [], 0
    for count in range(1, len(ids) + 1):
        # What is common, not how long it is: an unfinished character reads as another one, or as several.
        end = len(os.path.commonprefix([text_of(ids[:count], tokenizer, marks), whole]))
        end = max(begin, min(max(end - shift, 0), len(text)))
        spans.append((begin, end))
        begin = end
    return spans
