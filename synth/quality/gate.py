"""Which pictures may enter a data set at all: by licence, and not when an evaluation set holds them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from synth.quality.evaluation_set import EvaluationSet
from synth.quality.hashes import UNREADABLE, look_of
from synth.sources.fault import PictureFault

if TYPE_CHECKING:
    from synth.settings import Settings


class Gate:
    """Refuses pictures that ``licences`` and ``against`` of the settings rule out; can be sent to worker processes.

    Raises ``SourceError`` when a folder of ``against`` holds no picture.
    """

    def __init__(self, settings: Settings) -> None:
        self._licences = None if settings.licences is None else frozenset(settings.licences)
        self._evaluation = EvaluationSet(settings.against) if settings.against else None

    def fingerprint(self) -> dict | None:
        """Return what of the evaluation sets decides the content."""
        return self._evaluation.fingerprint() if self._evaluation else None

    def check(self, scene: Any) -> None:
        """Raise ``PictureFault`` for a picture that must stay out; looks at the pixels only where it must."""
        name = scene.file or f"{scene.source}/{scene.index}"
        allowed = self._licences
        # A pasted picture has the licences of all its parts.
        if allowed is not None and scene.licence not in allowed and not allowed.issuperset(scene.licence.split("; ")):
            raise PictureFault("licence not allowed", f"{name}: {scene.licence}")
        if self._evaluation is not None:
            data, _ = scene.image_bytes()
            try:
                found = self._evaluation.find(look_of(data))
            except UNREADABLE:
                raise PictureFault("unreadable picture", name) from None
            if found:
                raise PictureFault("in an evaluation set", f"{name}: {found.name}")
