"""Bad rows of a source: quarantined and counted by reason, never a crash and never silently kept."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fault:
    """One quarantined row: a reason that can be counted, and which row it was."""

    reason: str
    row: str


class PictureFault(Exception):
    """Raised by ``Source.scene`` when a whole picture is quarantined."""

    def __init__(self, reason: str, row: str) -> None:
        super().__init__(reason, row)
        self.fault = Fault(reason, row)
