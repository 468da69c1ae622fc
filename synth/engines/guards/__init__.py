"""Checking that a rewording says what the original says: its terms, numbers and boxes, and nothing that is new.

What may not change is data, one file for each language beside this one. The checks are about words, not meanings, and
so they lean to one side: a rewording that they let pass has the same names, attributes, relations, numbers and boxes
in the same order, the same kind of question, and no word that could claim anything new.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from synth.errors import SettingsError
from synth.languages import Pack, load_pack
from synth.record import ANY_PLACE
from synth.scene import Scene

_FOLDER = Path(__file__).parent
_LENGTH = (0.4, 3.0, 80)  # of the original's characters: least share, greatest share, and what any text may add
_MARKUP = re.compile(r"[<>`*#_|\\~^$@{}\[\]]|https?:|www\.|//|[\x00-\x1f\x7f\u200b-\u200f\u202a-\u202e\u2060\ufeff]")
_FIXED = re.compile(r"\{(?:box|point|mask):\d+\}|\d+")  # places and numbers stand in the same row as the terms
_WORD_MAY_BEGIN, _WORD_ENDS = re.compile(r"(?<!\w)"), re.compile(r"(?!\w)")
_QUOTED = re.compile(r'"[^"]*"')  # what is painted on a picture, to be found or read as it stands
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")


@dataclass(frozen=True, slots=True)
class Guards:
    """What one language's rewordings are held to."""

    free: frozenset[str]
    terms: dict[str, tuple[str, ...]]
    negation: re.Pattern
    strong: dict[str, re.Pattern]
    weak: dict[str, re.Pattern]
    neutral: frozenset[str]
    speech: re.Pattern

    def intent(self, question: str) -> tuple[str, ...]:
        """What the question wants, in the guards' own names."""
        strong = tuple(name for name, pattern in self.strong.items() if pattern.search(question))
        return strong or tuple(name for name, pattern in self.weak.items() if pattern.search(question))[:1]


@lru_cache
def load_guards(language: str) -> Guards:
    """Return the guards of a language; raises ``SettingsError`` where nobody has written them."""
    path = _FOLDER / f"{language}.toml"
    if not path.is_file():
        there = ", ".join(sorted(p.stem for p in _FOLDER.glob("*.toml")))
        raise SettingsError(
            f"engine=llm cannot reword language={language!r}",
            why=f"nobody has written what its rewordings must keep; it is written for {there}",
            fix=f"write synth/engines/guards/{language}.toml as en.toml is written, or use engine=template",
        )
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    patterns = {
        kind: {name: re.compile(text, re.IGNORECASE) for name, text in content["intents"][kind].items()}
        for kind in ("strong", "weak")
    }
    negation = "|".join(word if word == "n't" else rf"\b{word}\b" for word in content["negation"]["words"])
    return Guards(
        free=frozenset(content["free"]), terms={name: tuple(forms) for name, forms in content["terms"].items()},
        negation=re.compile(negation, re.IGNORECASE), **patterns,
        neutral=frozenset(content["words"]["neutral"].split()),
        speech=re.compile(content["speech"]["patterns"], re.IGNORECASE),
    )  # fmt: skip


def speaks_to_a_model(text: str, language: str) -> bool:
    """Whether a text speaks to or of a model; only of languages whose guards say how that sounds."""
    return (_FOLDER / f"{language}.toml").is_file() and bool(load_guards(language).speech.search(text))


def strange_signs(text: str) -> list[str]:
    """Return the signs of markup, links, code, line breaks and invisible characters in a text."""
    return _MARKUP.findall(text)


@dataclass(frozen=True, slots=True)
class Terms:
    """The words that mean something in one scene: ``canon`` says what each of their forms stands for.

    They are looked up, not searched for by one pattern of them all: a vocabulary may have thousands, and every picture
    another one.
    """

    canon: dict[str, str]
    longest: int  # characters of a form

    def said(self, text: str) -> list[str]:
        """Return the terms, box placeholders and numbers of a text, in their order; of two terms the longer one."""
        text, found, at = text.replace("’", "'").lower(), [], 0
        while at < len(text):
            fixed = _FIXED.match(text, at)
            form = fixed.group() if fixed else self._form(text, at)
            if form:
                found.append(self.canon.get(form, form))
            at += len(form) or 1
        return found

    def _form(self, text: str, at: int) -> str:
        """The longest form that begins here and is made of whole words; empty where there is none."""
        if not _WORD_MAY_BEGIN.match(text, at):
            return ""
        ends = range(min(len(text), at + self.longest), at, -1)
        return next((text[at:end] for end in ends if text[at:end] in self.canon and _WORD_ENDS.match(text, end)), "")


def terms_of(scenes: Iterable[Scene], pack: Pack, guards: Guards) -> Terms:
    """Return the terms of scenes that ``pack`` has translated: of them, of their vocabularies and of the language."""
    names = {*pack.words.values(), *pack.names.values()}
    for scene in scenes:
        names |= {name for obj in scene.objects for name in (obj.name, *obj.traits, *obj.attributes.values())}
        names |= {*scene.vocabulary, *scene.colours, *(relation.predicate for relation in scene.relations)}
        names |= {scene.background} if scene.background else set()
    canon = {form: name for name, forms in guards.terms.items() for form in forms}
    for name in sorted(name.lower() for name in names):
        if name and name not in guards.free:
            canon[name] = name
            canon.setdefault(_plural(pack.language, name), name)
    return Terms(canon, max(map(len, canon)))


@lru_cache(maxsize=1 << 16)
def _plural(language: str, name: str) -> str:
    return format(load_pack(language).word(name), "plural")


@lru_cache
def _words_of(pack_language: str) -> frozenset[str]:
    """Every word that the language's own wordings use, and what its data file calls neutral."""
    pack = load_pack(pack_language)
    texts = [text for task in pack.tasks.values() for forms in task.values() for texts in forms for text in texts]
    plain = (re.sub(r"\{[^}]*\}", " ", text) for text in (*texts, *pack.common))
    return frozenset(word for text in plain for word in _words(text)) | load_guards(pack_language).neutral


def _words(text: str) -> Iterator[str]:
    return (word.lower().replace("’", "'") for word in _WORD.findall(text))


def complaints(original: dict, reworded: dict, answer: str, terms: Terms, language: str) -> Iterator[tuple[str, str]]:
    """Yield (reason, what to tell the model) for all that is wrong with a rewording.

    ``original`` and ``reworded`` are {"question": text, "steps": [texts]}; ``answer`` is the record's.
    """
    guards = load_guards(language)
    if len(original["steps"]) != len(reworded["steps"]):
        yield "other number of steps", f"there must be {len(original['steps'])} steps, in their order"
        return
    pairs = [("question", original["question"], reworded["question"])]
    pairs += [
        (f"step {k}", old, new)
        for k, (old, new) in enumerate(zip(original["steps"], reworded["steps"], strict=True), 1)
    ]
    for where, old, new in pairs:
        for reason, said in _text_complaints(old, new, terms, language):
            yield reason, f"{where}: {said}"
    if guards.intent(original["question"]) != guards.intent(reworded["question"]):
        yield "another kind of question", "question: it must still ask for the same kind of answer"
    spoken = f" {' '.join(_tokens(answer))} "
    if spoken.strip() and spoken in f" {' '.join(_tokens(reworded['question']))} ":
        if spoken not in f" {' '.join(_tokens(original['question']))} ":
            yield "answer in the question", "question: it must not tell the answer"


def _text_complaints(old: str, new: str, terms: Terms, language: str) -> Iterator[tuple[str, str]]:
    guards = load_guards(language)
    least, most, more = _LENGTH
    if not least * len(old) <= len(new.strip()) <= most * len(old) + more:
        yield "too short or too long", f"it has {len(new)} characters, the original {len(old)}"
        return
    places = ANY_PLACE.findall(old)
    if ANY_PLACE.findall(new) != places:
        told = " ".join(places) or "none"
        yield "boxes changed", f"the placeholders of places must be, in this order: {told}"
    if _QUOTED.findall(new) != (quoted := _QUOTED.findall(old)):
        told = " ".join(quoted) or "none"
        yield "quoted words changed", f"what stands in quotation marks must be, letter for letter: {told}"
    bare = ANY_PLACE.sub(" ", new)
    if any(sign not in old for sign in strange_signs(bare)):
        yield "markup", "plain text only: no markup, links, brackets or code"
    if guards.speech.search(new) and not guards.speech.search(old):
        yield "speaks to a model", "it must be the text itself, not words about it"
    if len(guards.negation.findall(new)) != len(guards.negation.findall(old)):
        yield "negation changed", "add no negation and drop none"
    said, kept = terms.said(new), terms.said(old)
    if said != kept:
        yield _reason(kept, said), f"these must stand in it in this order, and no others like them: {', '.join(kept)}"
    known = _words_of(language) | set(_words(old))
    new_words = [word for word in _words(bare) if word not in known and not _is_term(word, kept, terms)]
    if new_words:
        yield "new word", f"do not use words that add anything: {', '.join(sorted(set(new_words))[:5])}"


def _is_term(word: str, kept: list[str], terms: Terms) -> bool:
    """Whether the word is a form of a term of the original, or a part of one ("cats", "next" of "next to")."""
    return any(word in form.split() for form, name in terms.canon.items() if name in kept)


def _reason(kept: Iterable[str], said: Iterable[str]) -> str:
    old, new = set(kept), set(said)
    if any(term.isdecimal() for term in old ^ new):
        return "numbers changed"
    if new - old:
        return "term added"
    return "term lost" if old - new else "terms in another order"


def _tokens(text: str) -> list[str]:
    return re.findall(r"\w+", ANY_PLACE.sub(" ", text).lower())
