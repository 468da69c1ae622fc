"""English articles and plurals of the names of things.

The rules are ours: `inflect`, which knows more words, takes four seconds to import, in every process that makes
records. A test holds these rules against it.
"""

from __future__ import annotations

import re
from functools import lru_cache

# Written with a vowel, spoken with a consonant; and the other way round.
_LIKE_YOU_OR_WON = re.compile(r"(eu|ewe|ewer|uni(?!n|m)|us[aeu]|uku|ute|uri|u-|ufo|usb|one\b|one-|once|ouija)", re.I)
_SILENT_H = re.compile(r"(hour|heir|honest|honou?r)", re.I)
# A letter that is spelled out: "an x-ray", "an LED lamp", "an 8-ball".
_SPELLED = re.compile(r"([aefhilmnorsx](-|\b)|[AEFHILMNORSX][A-Z0-9]+\b|8|11\b|18\b)")

_IRREGULAR = {
    "person": "people", "man": "men", "woman": "women", "child": "children", "foot": "feet", "tooth": "teeth",
    "goose": "geese", "mouse": "mice", "louse": "lice", "ox": "oxen", "die": "dice", "cactus": "cacti",
    "octopus": "octopuses", "bus": "buses", "gas": "gases", "lens": "lenses", "canvas": "canvases", "atlas": "atlases",
    "iris": "irises", "axis": "axes", "quiz": "quizzes",
}  # fmt: skip
_UNCHANGED = frozenset(
    "sheep fish deer moose bison aircraft spacecraft hovercraft watercraft species series salmon trout shrimp squid "
    "furniture luggage clothing food cutlery jewelry jewellery equipment pasta rice bread broccoli popcorn".split()
)
_CH_AS_K = ("stomach", "monarch", "epoch", "loch", "eunuch")
_F_TO_VES = frozenset("knife wolf leaf shelf loaf half calf scarf elf thief wife life hoof".split())
_O_TO_OES = frozenset("tomato potato hero echo mango mosquito tornado volcano buffalo".split())
# End as plurals do and are not; what else ends in one s is a plural already ("scissors", "skis").
_SINGULAR = ("ss", "us", "sis", "xis", "gas", "lens", "canvas", "atlas", "iris", "tennis")


@lru_cache(maxsize=65536)
def with_article(phrase: str) -> str:
    """Return the phrase behind its indefinite article.

    >>> with_article("umbrella"), with_article("unicycle"), with_article("hour glass"), with_article("x-ray")
    ('an umbrella', 'a unicycle', 'an hour glass', 'an x-ray')
    """
    if _SILENT_H.match(phrase) or _SPELLED.match(phrase):
        return f"an {phrase}"
    vowel = phrase[:1].lower() in tuple("aeiou") and not _LIKE_YOU_OR_WON.match(phrase)
    return f"{'an' if vowel else 'a'} {phrase}"


@lru_cache(maxsize=65536)
def plural(name: str) -> str:
    """Return the plural of a name; of "glass of water" the first part is counted, of "tennis racket" the last.

    >>> plural("wine glass"), plural("pair of skis"), plural("skis"), plural("fireman"), plural("knife")
    ('wine glasses', 'pairs of skis', 'skis', 'firemen', 'knives')
    >>> plural('red word "OPEN"')
    'red words "OPEN"'
    """
    for divider in (" of ", " (", ' "'):  # "bow (weapon)", 'word "OPEN"'
        first, found, rest = name.partition(divider)
        if found and first:
            return f"{plural(first)}{found}{rest}"
    head, _, last = name.rpartition(" ")
    return f"{head} {_plural_word(last)}".lstrip()


def _plural_word(word: str) -> str:
    lower = word.lower()
    if lower in _MANY or (lower.endswith(("men", "women", "children", "people")) and lower not in _ONE_IN_MEN):
        return word
    for one, many in _IRREGULAR.items():
        # "fireman" and "toothbrush mouse", yet not "human", "talisman" or a word that only ends so by chance
        if lower == one or (one in ("man", "woman", "child") and lower.endswith(one) and lower not in _NO_MEN):
            return word[: len(word) - len(one)] + _in_case(many, word[len(word) - len(one) :])
    if lower in _UNCHANGED or lower.endswith("fish") or (lower.endswith("s") and not lower.endswith(_SINGULAR)):
        return word
    if lower in _F_TO_VES:
        return word.removesuffix("e").removesuffix("f") + "ves"
    if lower in _O_TO_OES or (lower.endswith(("s", "x", "z", "ch", "sh")) and lower not in _CH_AS_K):
        return word + "es"
    if lower.endswith("y") and lower[-2:-1] not in ("", *"aeiou"):
        return word[:-1] + "ies"
    return word + "s"


_MANY = frozenset(_IRREGULAR.values())
_ONE_IN_MEN = frozenset("abdomen acumen cyclamen omen ramen regimen semen specimen stamen".split())
_NO_MEN = frozenset("human german roman talisman shaman caiman ottoman".split())


def _in_case(many: str, one: str) -> str:
    return many.capitalize() if one[:1].isupper() else many
