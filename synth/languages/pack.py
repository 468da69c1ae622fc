"""A language pack: the data file with the wordings of every task, checked when it is read."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from string import Formatter

from synth.errors import SettingsError, nearest
from synth.languages.grammar import GRAMMARS, Word
from synth.record import ANY_PLACE
from synth.scene import PAINTED, Obj, Scene

_FOLDER = Path(__file__).parent
PLACES = ("box", "point", "mask")  # what a dialect spells; never filled in with words
LANGUAGES = tuple(sorted(path.stem for path in _FOLDER.glob("*.toml")))


@dataclass(frozen=True, slots=True)
class Pack:
    """One language: ``words`` of answers, ``names`` of things, and per task and key the wordings (seen, unseen)."""

    language: str
    word: type[Word]
    between: str  # colour and name
    between_sentences: str
    words: dict[str, str]
    names: dict[str, str]
    tasks: dict[str, dict[str, tuple[tuple[str, ...], tuple[str, ...]]]]
    written: str = 'word "{t}"'  # how a word that is painted on the picture is called
    common: tuple[str, ...] = ()
    attributes: dict[str, str] = field(default_factory=dict)  # colours, sizes and traits
    predicates: dict[str, str] = field(default_factory=dict)
    letters: re.Pattern[str] = re.compile("")

    def writes(self, text: str) -> bool:
        """Whether a source's own sentence is in the script of this language; others are not told in it."""
        return bool(self.letters.search(text)) and not ANY_PLACE.search(text)

    def attribute(self, word: str) -> str:
        """Return the language's word for a colour, size or trait; an unknown one stays as it is."""
        return self.attributes.get(word, word)

    def predicate(self, word: str) -> str:
        """Return the language's words for what one thing does to another; unknown ones stay as they are."""
        return self.predicates.get(word, word)

    def translate(self, scene: Scene) -> Scene:
        """Return the scene in this language: names, attributes, background and what else may be there.

        Names that the pack does not know stay as the source wrote them.
        """
        if not (self.names or self.attributes):
            return scene
        objects = [self._translated(obj) for obj in scene.objects]
        relations = [replace(entry, predicate=self.predicate(entry.predicate)) for entry in scene.relations]
        return replace(
            scene, objects=objects, relations=relations, background=self._name(scene.background),
            vocabulary=tuple(map(self._name, scene.vocabulary)), colours=tuple(map(self.attribute, scene.colours)),
        )  # fmt: skip

    def _name(self, name: str) -> str:
        if (painted := PAINTED.fullmatch(name)) is not None:
            return self.written.replace("{t}", painted[1])
        return self.names.get(name, name)

    def _translated(self, obj: Obj) -> Obj:
        said = {key: self.attribute(value) for key, value in obj.attributes.items()}
        return replace(
            obj, name=self._name(obj.name), attributes=said, between=self.between,
            traits=tuple(map(self.attribute, obj.traits)),
        )  # fmt: skip


@lru_cache
def load_pack(language: str) -> Pack:
    """Return the pack of a language such as "en"; raises ``SettingsError`` with the nearest names for another."""
    if language not in LANGUAGES:
        raise SettingsError(
            f"unknown language {language!r}", why=f"there are packs for {', '.join(LANGUAGES)}",
            fix=f"language={nearest(language, LANGUAGES)}, or write synth/languages/{language}.toml",
        )  # fmt: skip
    return read_pack(_FOLDER / f"{language}.toml")


def read_pack(path: Path) -> Pack:
    """Return the pack in a file; raises ``ValueError`` naming the entry that is no good."""
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    tasks = {
        task: {key: _wordings(f"{task}.{key}", value) for key, value in entry.items()}
        for task, entry in content["tasks"].items()
    }
    return Pack(
        language=path.stem, word=GRAMMARS[content["grammar"]], between=content["between"],
        between_sentences=content["between_sentences"], words=content["words"],
        names=content.get("names", {}), tasks=tasks, common=tuple(content.get("common", ())),
        attributes=content.get("attributes", {}), predicates=content.get("predicates", {}),
        letters=re.compile(content["letters"]), written=content.get("written", Pack.written),
    )  # fmt: skip


def _wordings(where: str, value: str | list | dict) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(seen, unseen): one text or a list is used in every split; a table parts what "unseen" alone may use."""
    if isinstance(value, dict):
        seen, unseen = tuple(value["seen"]), tuple(value["unseen"])
        if set(seen) & set(unseen):
            raise ValueError(f"{where}: the same wording is seen and unseen")
    else:
        seen = unseen = (value,) if isinstance(value, str) else tuple(value)
    for text in (*seen, *unseen):
        for _, name, spec, _ in Formatter().parse(text):
            if name is not None and not name.isidentifier():
                raise ValueError(f"{where}: {{{name}}} is not a plain name")  # no way into attributes of objects
            if name in PLACES and not spec.isdigit():
                raise ValueError(f"{where}: a {name} is written {{{name}:0}}, not {{{name}:{spec}}}")
    return seen, unseen
