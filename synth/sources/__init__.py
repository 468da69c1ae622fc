"""Where scenes come from. A new source is one file here, a row in ``SOURCES`` and, for options, one in ``Settings``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from synth.errors import SettingsError, nearest
from synth.scene import Scene
from synth.sources.coco import CocoSource
from synth.sources.fault import Fault, PictureFault
from synth.sources.rendered import RenderedSource
from synth.sources.unlabelled import PicturesSource

if TYPE_CHECKING:
    from synth.settings import Settings

ENDLESS = 2**31 - 1  # the length of a source that never runs out

__all__ = ["ENDLESS", "SOURCES", "Fault", "PictureFault", "Source", "open_source"]


class Source(Protocol):
    """What a source offers; ``scene`` is random access, the same for the same arguments in every process."""

    def __len__(self) -> int: ...

    def scene(self, index: int, split: str, seed: int | str) -> Scene:
        """Return picture ``index``; raises ``PictureFault`` when this picture must be quarantined."""


@dataclass(frozen=True, slots=True)
class SourceKind:
    """How to open a source, and what of its options and files decides its content (goes into the settings hash)."""

    open: Callable[[Settings], Source]
    fingerprint: Callable[[Settings], dict] = field(default=lambda settings: {})


SOURCES: dict[str, SourceKind] = {
    "rendered": SourceKind(lambda settings: RenderedSource()),
    "coco": SourceKind(
        lambda settings: CocoSource(settings.coco, settings.split), lambda settings: settings.coco.fingerprint()
    ),
    "pictures": SourceKind(
        lambda settings: PicturesSource(settings.pictures, settings.split),
        lambda settings: settings.pictures.fingerprint(),
    ),
}


def source_kind(name: str) -> SourceKind:
    """Return the named source's entry; raises ``SettingsError`` with the nearest names when there is none."""
    if name not in SOURCES:
        raise SettingsError(
            f"unknown source {name!r}", why=f"known sources are {', '.join(sorted(SOURCES))}",
            fix=f"source={nearest(name, SOURCES)}",
        )  # fmt: skip
    return SOURCES[name]


def open_source(settings: Settings) -> Source:
    """Return the source that ``settings`` name, opened for their split."""
    return source_kind(settings.source).open(settings)
