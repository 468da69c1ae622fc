"""Filling in the wordings of one task: the only way a task writes text."""

from __future__ import annotations

import random
from functools import cache, lru_cache
from string import Formatter

from synth.languages.grammar import Word, Words
from synth.languages.pack import PLACES, Pack

UNSEEN = "unseen"  # the split that only uses wordings which no other split has


class Say:
    """The wordings of one task for one picture. Calling it fills one in; where there are several, ``rng`` chooses.

    ``say("answer", p="red star")`` fills the wording "answer". Values are words (then `{p:a}` and `{p:plural}` work),
    lists of words (`{things:a}`) or numbers; `{box:0}`, `{mask:0}` and `{point:0}` stay as they are.
    """

    __slots__ = ("pack", "rng", "_wordings", "_unseen")

    def __init__(self, pack: Pack, task: str, split: str, rng: random.Random) -> None:
        self.pack, self.rng, self._wordings, self._unseen = pack, rng, pack.tasks[task], split == UNSEEN

    def __call__(self, key: str, **values: object) -> str:
        texts = self._wordings[key][self._unseen]
        text = texts[0] if len(texts) == 1 else self.rng.choice(texts)
        return self._fill(text, values)

    def word(self, term: str) -> str:
        """Return the language's word for a term of the tasks, such as "left of" or "yes"."""
        return self.pack.words[term]

    def listing(self, parts: list[str]) -> str:
        """Return the parts as a list in a sentence."""
        return self.pack.word.listing(parts)

    def _fill(self, text: str, values: dict) -> str:
        word = self.pack.word
        fill = _filled
        for name, value in values.items():
            if isinstance(value, list):
                values[name] = Words(map(word, value))
                fill = _filled.__wrapped__  # what holds a list cannot be remembered
        return fill(word, text, **values)


@lru_cache(maxsize=65536, typed=True)  # pictures are full of the same few things: most sentences were said before
def _filled(word: type[Word], text: str, /, **values: object) -> str:
    template, inflected = _template(text)
    for slot, name, spec in inflected:
        value = values[name]
        values[slot] = format(word(value) if type(value) is str else value, spec)
    return template.format_map(values)


@cache
def _template(text: str) -> tuple[str, tuple[tuple[str, str, str], ...]]:
    """(what ``str.format`` fills quickly, its slots that need grammar); a place stays in the text as it is.

    >>> _template("Is {p:a} at {box:0}?")
    ('Is {p__a} at {{box:0}}?', (('p__a', 'p', 'a'),))
    """
    parts, inflected = [], {}
    for literal, name, spec, _ in Formatter().parse(text):
        parts.append(literal.replace("{", "{{").replace("}", "}}"))
        if name in PLACES:  # dialects put the numbers in, much later
            parts.append(f"{{{{{name}:{spec}}}}}")
        elif name is not None and spec:
            slot = f"{name}__{spec}"
            inflected[slot] = (slot, name, spec)
            parts.append(f"{{{slot}}}")
        elif name is not None:
            parts.append(f"{{{name}}}")
    return "".join(parts), tuple(inflected.values())


class SayAll(Say):
    """Says the first wording and remembers every text that could have been said: what a checker compares with."""

    __slots__ = ("said",)

    def __init__(self, pack: Pack, task: str) -> None:
        super().__init__(pack, task, "", random.Random(0))
        self.said: dict[str, set[str]] = {}

    def __call__(self, key: str, **values: object) -> str:
        texts = dict.fromkeys((*self._wordings[key][0], *self._wordings[key][1]))
        filled = [self._fill(text, values) for text in texts]
        self.said[filled[0]] = set(filled)
        return filled[0]
