"""Does a data set hold pictures of an evaluation set? ``python -m synth contamination DIR --against FOLDER`` tells."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from synth.quality.evaluation_set import EvaluationSet, looks_in
from synth.quality.near import THRESHOLD


@dataclass(frozen=True, slots=True)
class Found:
    """A picture of the data set and the one of the evaluation set it matches; ``distance`` None: the same pixels."""

    picture: str
    evaluation: str
    distance: int | None

    def __str__(self) -> str:
        apart = "same pixels" if self.distance is None else f"{self.distance} of 64 bits apart"
        return f"{self.picture}\t{self.evaluation}\t{apart}"


def contamination(
    folder: str | Path, against: Iterable[str | Path], threshold: int = THRESHOLD, unreadable: list[str] | None = None
) -> Iterator[Found]:
    """Yield the pictures of a folder (of synth, or of picture files) that evaluation sets hold too, or nearly.

    Each picture is compared with all of the evaluation sets at once: time grows with the product of both, some
    seconds for a hundred thousand against ten thousand, little beside the decoding.

    Args:
        folder: a dataset folder, or a folder of pictures.
        against: folders of pictures, or dataset folders.
        threshold: bits of 64 in which a look-alike may differ, 0 to 15.
        unreadable: takes the names of files that could not be compared.

    Raises:
        SourceError: a folder of ``against`` holds no picture, or a dataset folder is damaged.
        SettingsError: the threshold is outside its range.
    """
    evaluation = EvaluationSet(against, threshold)
    missed = [] if unreadable is None else unreadable
    missed += evaluation.unreadable
    for name, look in looks_in(Path(folder), missed):
        match = evaluation.find(look)
        if match:
            yield Found(name, match.name, match.distance)
