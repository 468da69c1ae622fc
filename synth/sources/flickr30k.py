"""Flickr30k Entities: five captions a picture whose phrases are tied to boxes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import Element

from synth.sources.annotation import Annotated, Thing
from synth.sources.fault import Fault
from synth.sources.format import Format, Items, below, digest_of
from synth.sources.options import Folder
from synth.sources.pictures import PictureFolder
from synth.sources.safe_xml import XML_FAULTS, parse, text
from synth.sources.voc import picture_of, size, thing

_PHRASE = re.compile(r"\[/EN#(\d+)((?:/[\w-]+)+) ([^\]]*)\]")
_FIRST = re.compile(
    r"^(?:(?:a|an|the|this|that|these|those|his|her|its|their|some|several|many|one|two|three|four|five|six|seven|eight"
    r"|nine|ten|another|other|both) )+"
)
_SPLITS = ("train", "val", "test")


def read(folder: Folder, work: Path) -> Items:
    """Yield the picture of each annotation file with its captions.

    A thing is named as the shortest phrase for it, without article or number ("green shirt"). Not everything there is
    was spoken of, so no name is known to be absent, and none to be listed in full.
    """
    splits, pictures = _splits(folder), _pictures(folder)
    for path in below(folder.path / "Annotations", ".xml"):
        row = path.relative_to(folder.path).as_posix()
        sentences = folder.path / "Sentences" / f"{path.stem}.txt"
        try:
            root, lines = parse(path), sentences.read_text(encoding="utf-8").splitlines()
        except XML_FAULTS:
            yield Fault("unreadable annotation or sentence file", row)
            continue
        file = picture_of(path, text(root, "filename"), pictures)
        if isinstance(file, Fault):
            yield Fault(file.reason, row)
            continue
        nodes = [node for node in root.iterfind("object") if node.find("bndbox") is not None]
        boxes = _by_entity(nodes)
        captions, phrases = [], {}
        for line in filter(None, map(str.strip, lines)):
            words, spans = _caption(line)
            captions.append([words, [[start, end, boxes.get(entity, [])] for start, end, entity in spans]])
            for start, end, entity in spans:
                phrases.setdefault(entity, []).append(words[start:end])
        yield Annotated(
            file=file, **size(root), captions=captions, absent=[],
            exhaustive=False,
            things=[_named(k, node, phrases) for k, node in enumerate(nodes)], split=splits.get(path.stem),
        )  # fmt: skip


def _caption(line: str) -> tuple[str, list[tuple[int, int, str]]]:
    """Return the sentence without brackets, and (start, end, entity) of its phrases."""
    words, spans, at = "", [], 0
    for match in _PHRASE.finditer(line):
        words += line[at : match.start()]
        spans.append((len(words), len(words) + len(match[3]), match[1]))
        words += match[3]
        at = match.end()
    return words + line[at:], spans


def _named(k: int, node: Element, phrases: dict[str, list[str]]) -> Thing:
    said = [phrase for entity in _entities(node) for phrase in phrases.get(entity, [])]
    names = sorted({_FIRST.sub("", phrase.lower()).strip() for phrase in said} - {""}, key=lambda n: (len(n), n))
    found = thing(k, node)
    found.name = names[0] if names else None
    return found


def _entities(node: Element) -> list[str]:
    return [(name.text or "").strip() for name in node.iterfind("name")]


def _by_entity(nodes: list[Element]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for k, node in enumerate(nodes):
        for entity in _entities(node):
            found.setdefault(entity, []).append(k)
    return found


def _splits(folder: Folder) -> dict[str, str]:
    found = {}
    for split in _SPLITS:
        path = folder.path / f"{split}.txt"
        if path.is_file():
            found |= dict.fromkeys(path.read_text(encoding="utf-8").split(), split)
    return found


def _files(folder: Folder) -> Iterator[Path]:
    yield from below(folder.path / "Annotations", ".xml")
    yield from below(folder.path / "Sentences", ".txt")
    yield from (path for split in _SPLITS if (path := folder.path / f"{split}.txt").is_file())


def _pictures(folder: Folder) -> PictureFolder:
    return PictureFolder(folder.pictures("flickr30k-images", "flickr30k_images", "images"))


FORMAT = Format(
    read=read, pictures=_pictures,
    digest=lambda folder: digest_of(_files(folder), folder.path), uses=("images",), own_splits=True,
    expects="Annotations/*.xml, Sentences/*.txt and flickr30k-images/; splits in train.txt, val.txt, test.txt",
    signs=(("Annotations/*.xml", "Sentences/*.txt"),),
)  # fmt: skip
