"""What a language does to a word before it stands in a sentence: the specs of `{p:a}`, `{p:plural}`, `{things:list}`.

A word of a template is a ``str`` that formats itself; a new language is one class here and one data file beside it.
"""

from __future__ import annotations

from collections.abc import Sequence

from synth.languages.english import plural, with_article

_PREPOSITIONS = frozenset(
    "above across against along around at behind below beneath beside between by in inside near next on outside over "
    "to under underneath with".split()
)


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
            return with_article(str(self))
        if spec == "plural":
            return plural(str(self))
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
        if not words or not all(word.isalpha() for word in words) or plural(subject) == subject:
            return ""
        if words[0] in _PREPOSITIONS or words[0].endswith("ing"):
            return " ".join(words if asked == "subject" else ["is", *words])
        if words[0] == "has" or (words[0].endswith("s") and not words[0].endswith("ss")):
            return " ".join(["that", *words] if asked == "subject" else words)
        return ""


# How Japanese speaks of what is alive, and what it counts things with; of other things "aru" and "ko".
_COUNTERS = {
    "人": "人", "の子": "人", "猫": "匹", "犬": "匹", "魚": "匹", "蝶": "匹", "カエル": "匹", "カメ": "匹", "羊": "匹",
    "馬": "頭", "牛": "頭", "象": "頭", "熊": "頭", "シマウマ": "頭", "キリン": "頭", "鳥": "羽", "アヒル": "羽",
}  # fmt: skip
_MACHINES = {
    "自転車": "台", "車": "台", "バイク": "台", "バス": "台", "トラック": "台",
    "飛行機": "機", "ボート": "艘", "本": "冊",
}  # fmt: skip
_BEING = {"iru": ("ある", "いる"), "imasu": ("あります", "います"), "imasen": ("ありません", "いません")}


class JapaneseWord(Word):
    """`:iru`, `:imasu`, `:imasen` choose the verb of being by what is alive; `:counter`, `:how_many` count it."""

    __slots__ = ()

    def __format__(self, spec: str) -> str:
        alive = next((counter for ending, counter in _COUNTERS.items() if self.endswith(ending)), "")
        if spec in _BEING:
            return _BEING[spec][bool(alive)]
        if spec == "counter":
            return alive or next((c for ending, c in _MACHINES.items() if self.endswith(ending)), "個")
        if spec == "how_many":
            return f"何{alive}" if alive else "いくつ"
        return super().__format__(spec)

    @staticmethod
    def verb(predicate: str, subject: str, asked: str) -> str:
        """ "を持っている": 傘「を持っている」人, 人が「持っている」傘.

        Places ("の上にある") only say where the subject is.
        """
        if asked == "subject":
            place = predicate.removesuffix("ある")
            return predicate if place == predicate else f"{place}{JapaneseWord(subject):iru}"
        return predicate[1:] if predicate.startswith(("を", "に")) else ""


class Words(list):
    """Several words of a sentence: `{things}` lists them, `{things:a}` lists each with what the spec does to it."""

    def __format__(self, spec: str) -> str:
        return type(self[0]).listing([format(word, spec) for word in self])


GRAMMARS: dict[str, type[Word]] = {"english": EnglishWord, "japanese": JapaneseWord, "plain": Word}
