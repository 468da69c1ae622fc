"""Decoding that lets only well-formed boxes through, and touches nothing else.

Each row of a batch is followed through the grammar of its dialect on its picture. Inside an open box only tokens are
left that keep the text the beginning of a well-formed box; outside, only those are taken away that would open a box and
break it in the same token. Which tokens these are is found once per state of the grammar and kept.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache

import torch
from transformers import LogitsProcessor

from lynx_moe.errors import DialectError
from lynx_moe.evaluation.token_text import Mark, unspoken
from lynx_moe.families.dialects.grammar import Grammar, Label, State

MASKS = 2000  # states whose tokens are remembered per vocabulary; in a label these are nearly all of it
BYTE = re.compile(r"<0x[0-9A-F]{2}>")
PART, CONTROL = "\ufffd", "\0"  # of a character that may stand in a label, and one that may not


class Vocabulary:
    """The text that each token adds to what stands before it.

    Args:
        tokenizer: any of transformers.
        marks: the special tokens that stay in an answer; all others add nothing.
    """

    def __init__(self, tokenizer, marks: Sequence[Mark] = ()):
        silent = unspoken(tokenizer, tuple(marks))
        # Behind another token, for some decoders drop or add a space at the very beginning.
        ids = range(len(tokenizer))
        anchor = next((id for id in ids if id not in silent and tokenizer.decode([id]).isalnum()), None)
        start = [] if anchor is None else [anchor]
        skipped = len(tokenizer.decode(start))
        self.pieces = ["" if id in silent else tokenizer.decode([*start, id])[skipped:] for id in ids]
        self._bytes: dict[str, int] = {}
        for id, name in enumerate(tokenizer.convert_ids_to_tokens(list(ids))):
            # What a byte reads as depends on the bytes beside it; characters of boxes have tokens of their own.
            if BYTE.fullmatch(name or "") and self.pieces[id] != name:
                byte = int(name[3:5], 16)
                self.pieces[id] = PART if byte > 127 else CONTROL
                self._bytes[chr(byte)] = id
        self._starting: dict[str, list[int]] = defaultdict(list)
        self._holding: dict[str, list[int]] = defaultdict(list)
        for id, piece in enumerate(self.pieces):
            if piece:
                self._starting[piece[0]].append(id)
            for char in set(piece):
                self._holding[char].append(id)
        label = Label()
        self._in_label = {id for id, piece in enumerate(self.pieces) if piece and all(map(label.takes, piece))}
        self._beside_label = [id for id, piece in enumerate(self.pieces) if piece and id not in self._in_label]
        for ids in (*self._starting.values(), *self._holding.values(), self._beside_label):
            ids.sort(key=self.pieces.__getitem__)
        self._tokens = lru_cache(maxsize=MASKS)(self._find)

    def tokens(self, grammar: Grammar, state: State) -> torch.Tensor:
        """Ids of the tokens that may come next in an open box; outside of boxes, of those that may not. (n,) int32."""
        return self._tokens(grammar, grammar.alike(state))

    def _find(self, grammar: Grammar, state: State) -> torch.Tensor:
        if state.in_box:
            nexts = grammar.follows(state)
            if nexts is None:
                found = self._in_label | self._fitting(grammar, state, self._beside_label)
            else:
                found = set().union(*(self._fitting(grammar, state, self._starting[char]) for char in nexts))
        else:
            # A token can only break a box that it opens itself.
            opening = self._holding[grammar.opening[-1]]
            found = set(opening) - self._fitting(grammar, state, opening)
            # Nor may bytes spell an opening, which would be followed as something else.
            found |= {self._bytes[char] for char in grammar.opening if char in self._bytes}
        return torch.tensor(sorted(found), dtype=torch.int32)

    def _fitting(self, grammar: Grammar, state: State, ids: Sequence[int]) -> set[int]:
        """Those of `ids`, in the order of their pieces, that can follow.

        What one piece and the next begin with alike is followed once.
        """
        found, states, before = set(), [state], ""
        for id in ids:
            piece = self.pieces[id]
            shared = len(os.path.commonprefix((before, piece)))
            before = piece
            if shared >= len(states):  # the character that led nowhere is in this one too
                continue
            del states[shared + 1 :]
            for char in piece[shared:]:
                after = grammar.step(states[-1], char)
                if after is None:
                    break
                states.append(after)
            else:
                found.add(id)
        return found


@lru_cache(maxsize=2)
def vocabulary(tokenizer, size: int, marks: tuple[Mark, ...]) -> Vocabulary:
    """The `Vocabulary` of a tokenizer of `size` tokens; it takes seconds for a large one, so it is kept."""
    return Vocabulary(tokenizer, marks)


class OnlyWholeBoxes(LogitsProcessor):
    """Follows the rows of one call of `generate`; not to be used for a second.

    Args:
        vocabulary: what the model's tokens say.
        grammars: of each row of the batch, before beams.
    """

    def __init__(self, vocabulary: Vocabulary, grammars: Sequence[Grammar]):
        self.vocabulary = vocabulary
        self.grammars = list(grammars)
        self._given: int | None = None  # tokens of the prompt
        self._states: dict[tuple[int, tuple[int, ...]], State] = {}

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """`scores` (rows, vocabulary) with minus infinity where a token would break a box.

        Raises:
            DialectError: the vocabulary has no token with which an open box could go on.
        """
        if self._given is None:
            self._given = input_ids.shape[1]
        beams = len(input_ids) // len(self.grammars)
        states, left = {}, scores.clone()
        for row, written in enumerate(input_ids[:, self._given :].tolist()):
            record = row // beams
            state = states[record, tuple(written)] = self._state(record, tuple(written))
            tokens = self.vocabulary.tokens(self.grammars[record], state).to(scores.device, torch.long)
            tokens = tokens[tokens < scores.shape[1]]
            if not state.in_box:
                left[row, tokens] = -torch.inf
                continue
            if not len(tokens):
                raise _cannot_go_on(self.grammars[record], state)
            left[row] = -torch.inf
            left[row, tokens] = scores[row, tokens]
        self._states = states
        return left

    def _state(self, record: int, written: tuple[int, ...]) -> State:
        if not written:
            return State()
        # Beams change places between steps, so a row is known by what it has written.
        before = self._states.get((record, written[:-1])) or self._state(record, written[:-1])
        pieces = self.vocabulary.pieces
        piece = pieces[written[-1]] if written[-1] < len(pieces) else ""
        # A box can break only where another processor left no other choice; then it is over.
        return self.grammars[record].advance(before, piece) or State()


def _cannot_go_on(grammar: Grammar, state: State) -> DialectError:
    place = next(iter(state.places))
    return DialectError(
        f"no token goes on with a box behind {grammar.opening!r}",
        why=f"the tokenizer cannot write {place.parts[0]!r} from where it stands",
        fix="add the dialect's marks to the tokenizer, choose another dialect, or decode without constraint",
    )
