"""What a language does to a word before it stands in a sentence: the specs of `{p:a}`, `{p:plural}`, `{things:list}`.

A word of a template is a ``str`` that formats itself; a new language is one class here and one data file beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import inflect

_ENGLISH = inflect.engine()
_PREPOSITIONS = frozenset(
    "above across against along around at behind below beneath beside between by in inside near next on outside over "
    "to under underneath with".split()
)


@lru_cache(maxsize=65536)
def _article(phrase: str) -> str:
    return _ENGLISH.a(phrase)


@lru_cache(maxsize=65536)
def _plural(name: str) -> str:
    # Already a plural ("scissors", "skis", "jeans")? Made plural again it would be no word at all.
    head, _, last = name.rpartition(" ")
    if last.endswith("s") and not last.endswith("ss") and _ENGLISH.singular_noun(last):
        return name
    return f"{head} {_ENGLISH.plural_noun(last)}".lstrip()


class Word(str):
    """A word or phrase of a language that has neither articles nor plurals: `:a` and `:plural` leave it alone."""

    __slots__ = ()

    def __format__(self, spec: str) -> str:
        if spec in ("", "a", "plural"):
            return str(self)
        raise ValueError(f"no grammar for {{..:{spec}}}; there are :a and :plural")

    @staticmethod
    def listing(parts: Sequence[str]) -> str:
        """The parts as a list in a sentence."""
        return "、".join(parts)

    @staticmethod
    def verb(predicate: str, subject: str, asked: str) -> str:
        """What ``subject`` does, ready to stand beside it, when "subject" or "object" is asked for; "" if it cannot."""
        return predicate


class EnglishWord(Word):
    """`:a` puts the indefinite article before the phrase, `:plural` makes plural what it names."""

    __slots__ = ()

    def __format__(self, spec: str) -> str:
        if spec == "a":
            return _article(str(self))
        if spec == "plural":
            return _plural(str(self))
        return super().__format__(spec)

    @staticmethod
    def listing(parts: Sequence[str]) -> str:
        """ "a", "a and b", "a, b and c"."""
        return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"

    @staticmethod
    def verb(predicate: str, subject: str, asked: str) -> str:
        """ "wearing": the man "wearing" the hat, the hat that the man "is wearing". Of things in the singular only."""
        words = predicate.lower().split()
        if words[:1] in (["is"], ["are"]):
            words = words[1:]
        if not words or not all(word.isalpha() for word in words) or _plural(subject) == subject:
            return ""
        if words[0] in _PREPOSITIONS or words[0].endswith("ing"):
            return " ".join(words if asked == "subject" else ["is", *words])
        if words[0] == "has" or (words[0].endswith("s") and not words[0].endswith("ss")):
            return " ".join(["that", *words] if asked == "subject" else words)
        return ""


class Words(list):
    """Several words of a sentence: `{things}` lists them, `{things:a}` lists each with what the spec does to it."""

    def __format__(self, spec: str) -> str:
        return type(self[0]).listing([format(word, spec) for word in self])


GRAMMARS: dict[str, type[Word]] = {"english": EnglishWord, "plain": Word}
