"""Filling in the wordings of one task: the only way a task writes text."""

from __future__ import annotations

import random

from synth.languages.grammar import Words
from synth.languages.pack import Pack

UNSEEN = "unseen"  # the split that only uses wordings which no other split has


class _Place:
    """`{box:1}` of a wording becomes `{box:1}` of the record: dialects put the numbers in, much later."""

    def __format__(self, spec: str) -> str:
        return f"{{box:{spec}}}"


_PLACE = _Place()


class Say:
    """The wordings of one task for one picture. Calling it fills one in; where there are several, ``rng`` chooses.

    ``say("answer", p="red star")`` fills the wording "answer". Values are words (then `{p:a}` and `{p:plural}` work),
    lists of words (`{things:a}`) or numbers; `{box:0}` stays as it is.
    """

    __slots__ = ("pack", "rng", "_wordings", "_unseen")

    def __init__(self, pack: Pack, task: str, split: str, rng: random.Random) -> None:
        self.pack, self.rng, self._wordings, self._unseen = pack, rng, pack.tasks[task], split == UNSEEN

    def __call__(self, key: str, **values: object) -> str:
        texts = self._wordings[key][self._unseen]
        text = texts[0] if len(texts) == 1 else self.choose(key, texts, values)
        return self._fill(text, values)

    def choose(self, key: str, texts: tuple[str, ...], values: dict) -> str:
        """Return one of several wordings."""
        return self.rng.choice(texts)

    def word(self, term: str) -> str:
        """Return the language's word for a term of the tasks, such as "left of" or "yes"."""
        return self.pack.words[term]

    def listing(self, parts: list[str]) -> str:
        """Return the parts as a list in a sentence."""
        return self.pack.word.listing(parts)

    def _fill(self, text: str, values: dict) -> str:
        word = self.pack.word
        said = {
            name: word(value) if type(value) is str else Words(map(word, value)) if type(value) is list else value
            for name, value in values.items()
        }
        return text.format(box=_PLACE, **said)


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
