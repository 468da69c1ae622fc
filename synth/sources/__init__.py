"""Where scenes come from. A new way to draw is one file here and a row in ``SOURCES``, an annotated format one in
``FORMATS``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from synth.errors import SettingsError, nearest, refuse_unused
from synth.scene import Scene
from synth.sources.annotated import AnnotatedSource, fingerprint
from synth.sources.arranged import ArrangedSource
from synth.sources.fault import Fault, PictureFault
from synth.sources.format import Format
from synth.sources.formats import FORMATS, detect
from synth.sources.options import one_path
from synth.sources.paste import PasteOptions, PasteSource, grounds_digest
from synth.sources.rendered import RenderedSource
from synth.sources.solid import SolidSource
from synth.sources.unlabelled import PicturesSource, pictures_fingerprint

if TYPE_CHECKING:
    from synth.settings import Settings

AUTO = "auto"  # look at the folder's files
ENDLESS = 2**31 - 1  # the length of a source that never runs out

__all__ = ["AUTO", "ENDLESS", "SOURCES", "Fault", "PictureFault", "Source", "detected", "open_source"]


class Source(Protocol):
    """What a source offers; ``scene`` is random access, the same for the same arguments in every process.

    A source of foreign data also has ``faults`` and ``object_faults(index)``, and ``root``, the folder that its
    pictures' names are relative to, or None.
    """

    def __len__(self) -> int: ...

    def scene(self, index: int, split: str, seed: int | str) -> Scene:
        """Return picture ``index``; raises ``PictureFault`` when this picture must be quarantined."""


@dataclass(frozen=True, slots=True)
class SourceKind:
    """How to open a source, and what of its options and files decides its content (goes into the settings hash).

    ``open`` gets the settings and a folder for scratch files of this very run, the same in every process.
    """

    open: Callable[[Settings, Path], Source]
    fingerprint: Callable[[Settings], dict] = field(default=lambda settings: {})


def _annotated(name: str, form: Format) -> SourceKind:
    return SourceKind(
        lambda settings, work: AnnotatedSource(
            name, form, settings.folder, settings.split, work, link=settings.images == "link"
        ),
        lambda settings: fingerprint(name, form, settings.folder),
    )


def _pasted(settings: Settings) -> Settings:
    """The settings of the source that paste takes its objects from."""
    settings.paste.check()
    return detected(replace(settings, source=settings.paste.of, paste=PasteOptions(), images="embed"))


def _open_paste(settings: Settings, work: Path) -> PasteSource:
    return PasteSource(settings.paste, open_source(_pasted(settings), work / "paste"), settings.split)


def _paste_fingerprint(settings: Settings) -> dict:
    inner = _pasted(settings)
    of = {"of": inner.source, "of_options": source_kind(inner.source).fingerprint(inner)}
    grounds = settings.paste.grounds
    return {
        **asdict(settings.paste), **of, "grounds": one_path(grounds), "grounds_sha256": grounds_digest(grounds),
    }  # fmt: skip


SOURCES: dict[str, SourceKind] = {
    "rendered": SourceKind(
        lambda settings, work: RenderedSource(settings.rendered), lambda settings: asdict(settings.rendered)
    ),
    "arranged": SourceKind(lambda settings, work: ArrangedSource()),
    "solid": SourceKind(lambda settings, work: SolidSource(settings.solid), lambda settings: asdict(settings.solid)),
    "paste": SourceKind(_open_paste, _paste_fingerprint),
    **{name: _annotated(name, form) for name, form in FORMATS.items()},
    "pictures": SourceKind(
        lambda settings, work: PicturesSource(settings.folder, settings.split),
        lambda settings: pictures_fingerprint(settings.folder),
    ),
}


# Which sources use a group of options.
_GROUPS = {
    "folder": (AUTO, *FORMATS, "paste", "pictures"),
    "rendered": ("rendered",),
    "paste": ("paste",),
    "solid": ("solid",),
}


def source_kind(name: str) -> SourceKind:
    """Return the named source's entry; raises ``SettingsError`` with the nearest names when there is none."""
    if name not in SOURCES:
        raise SettingsError(
            f"unknown source {name!r}", why=f"known sources are {', '.join((AUTO, *sorted(SOURCES)))}",
            fix=f"source={nearest(name, SOURCES)}",
        )  # fmt: skip
    return SOURCES[name]


def detected(settings: Settings) -> Settings:
    """Return the settings with ``source=auto`` replaced by what the folder's files look like."""
    return replace(settings, source=detect(settings.folder.path)) if settings.source == AUTO else settings


def open_source(settings: Settings, work: Path) -> Source:
    """Return the source that ``settings`` name, opened for their split; ``work`` is a folder for scratch files."""
    kind = source_kind(settings.source)
    refuse_unused(settings, "source", _GROUPS)
    source = kind.open(settings, work)
    if settings.images == "link" and getattr(source, "root", None) is None:
        raise SettingsError(
            f"images=link, but source={settings.source} has no picture files to link to",
            why="its pictures are made or stored inside of a table", fix="images=embed",
        )  # fmt: skip
    return source
