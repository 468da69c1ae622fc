"""What of a question is its wording and what is filled in: "Is there _ in the picture?" with "a red star"."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

_WORD = re.compile(r"\w+|[^\w\s]")
BLANK = "_"


def words_of(text: str) -> list[str]:
    """Return the words, numbers and punctuation marks of a text, in lower case."""
    return _WORD.findall(text.lower())


@dataclass(frozen=True, slots=True)
class Parsed:
    """A question as words; ``wording`` has a blank for each run of content words, ``slots`` holds what was there."""

    words: tuple[str, ...]
    wording: str
    slots: tuple[str, ...]


class Wordings:
    """Tells wording from content by the names and attributes of a data set's own objects; numbers are content too."""

    def __init__(self) -> None:
        self._content: set[str] = set()

    def learn(self, phrase: str) -> None:
        """Take the words of an object's name or attribute as content, with their regular English plurals."""
        for word in words_of(phrase):
            if word.isalpha():
                self._content |= {word, word + "s", word + "es"}
                if word.endswith("y"):
                    self._content.add(word[:-1] + "ies")

    def learn_attributes(self, attributes: str) -> None:
        """Take the values of an object's attributes, as the images table holds them (a JSON object), as content."""
        for value in json.loads(attributes or "{}").values():
            if isinstance(value, str):
                self.learn(value)

    def parse(self, question: str) -> Parsed:
        """Divide a question into its wording and its content."""
        words = words_of(question)
        wording: list[str] = []
        slots: list[list[str]] = []
        for word in words:
            if word in self._content or word.isdigit():
                if wording and wording[-1] == BLANK:
                    slots[-1].append(word)
                else:
                    wording.append(BLANK)
                    slots.append([word])
            else:
                wording.append(word)
        return Parsed(tuple(words), " ".join(wording), tuple(" ".join(slot) for slot in slots))
