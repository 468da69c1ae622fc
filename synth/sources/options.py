"""How an annotated folder is named and divided: the settings ``folder.*``, and what a reader gets of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from synth.errors import SettingsError, SourceError

ALWAYS = ("path", "val_fraction", "look_alikes", "licence")  # what every format uses
VAL_FRACTION = 0.1


@dataclass(kw_only=True, slots=True)
class FolderOptions:
    """Where annotated pictures are. null leaves it to the format, which looks where its files usually lie."""

    path: str = field(default="", metadata={"help": "folder with pictures and annotations; needed"})
    annotations: str | None = field(
        default=None, metadata={"help": "annotation file or folder, relative to folder.path; null: the usual places"}
    )
    images: str | None = field(
        default=None, metadata={"help": "picture folder, relative to folder.path; null: the usual places"}
    )
    names: str | None = field(
        default=None, metadata={"help": "file with the category names, for formats that keep them apart"}
    )
    boxes: str | None = field(
        default=None, metadata={"help": "xywh or xyxy, for source=datasets, which does not say; null: xywh"}
    )
    val_fraction: float | None = field(
        default=None,
        metadata={"help": f"share of pictures in split=val by file name, 0 to 1; null: {VAL_FRACTION}, or own splits"},
    )
    look_alikes: bool | None = field(
        default=None,
        metadata={"help": "true: pictures that look alike are never parted between train and val; opens all"},
    )
    licence: str = field(default="unknown", metadata={"help": "licence of pictures whose annotation names none"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Folder:
    """One source folder as its reader sees it."""

    source: str
    options: FolderOptions

    @property
    def path(self) -> Path:
        return Path(self.options.path)

    def annotations(self, *usual: str) -> Path:
        """Return the annotation file or folder: the one that is named, else the only match of the usual patterns."""
        return self._find("annotations", usual)

    def every_annotations(self, *usual: str) -> list[Path]:
        """Return all annotation files of the first pattern that matches, or the one that is named."""
        if self.options.annotations is not None:
            return [self.annotations()]
        hits = next((hits for pattern in usual if (hits := sorted(self.path.glob(pattern)))), [])
        return hits or [self.annotations(*usual)]

    def names(self, *usual: str) -> Path:
        """Return the file with the category names: the one that is named, else the only match of the patterns."""
        return self._find("names", usual)

    def pictures(self, *usual: str) -> Path:
        """Return the picture folder: the one that is named, else the first usual one that is there."""
        named = self.options.images
        places = [self.path / place for place in ([named] if named is not None else [*usual, "."])]
        return next((place for place in places if place.is_dir()), places[0])

    def _find(self, option: str, usual: Iterable[str]) -> Path:
        named = getattr(self.options, option)
        if named is not None:
            found = [self.path / named] if (self.path / named).exists() else []
        else:
            # Patterns are tried in their order: a folder with instances.json may hold other exports deeper down.
            found = next((hits for pattern in usual if (hits := sorted(self.path.glob(pattern)))), [])
        if len(found) == 1:
            return found[0]
        looked = named if named is not None else ", ".join(usual)
        if found:
            several = ", ".join(path.relative_to(self.path).as_posix() for path in found[:8])
            raise SettingsError(
                f"{self.path} has several files that source={self.source} could read", why=f"there are {several}",
                fix=f"choose one with folder.{option}=...",
            )  # fmt: skip
        raise SourceError(
            f"no {option} of source={self.source} in {self.path}", why=f"looked for {looked}",
            fix=f"put it there, or set folder.{option}; folder.path={self.options.path!r} must be the folder above it",
        )  # fmt: skip


def described(options: FolderOptions) -> dict:
    """Return the options as a manifest keeps them: one folder has one path, however it was named."""
    return {**asdict(options), "path": one_path(options.path)}


def one_path(path: str) -> str:
    """Return the one absolute path of what is there; what is not, such as a dataset's name on a hub, as it is."""
    return str(Path(path).resolve()) if path and Path(path).exists() else path


def check_options(source: str, options: FolderOptions, uses: Iterable[str]) -> None:
    """Raise ``SettingsError`` when no folder is named, a value is out of range, or an option would do nothing."""
    if not options.path:
        raise SettingsError(
            f"source={source} needs a folder", why="folder.path is empty", fix="folder.path=path/to/folder"
        )
    share = options.val_fraction
    if share is not None and not 0 <= share <= 1:
        raise SettingsError(
            f"folder.val_fraction={share} is not a share", why="it must lie between 0 and 1",
            fix="for example folder.val_fraction=0.1",
        )  # fmt: skip
    if options.boxes not in (None, "xywh", "xyxy"):
        raise SettingsError(
            f"folder.boxes={options.boxes!r} is unknown", why="boxes are written as xywh or as xyxy",
            fix="folder.boxes=xywh",
        )  # fmt: skip
    for name in unused(options, uses):
        raise SettingsError(
            f"source={source} does not use folder.{name}", why=f"it uses {', '.join((*ALWAYS, *uses))}",
            fix=f"leave folder.{name} out",
        )  # fmt: skip


def unused(options: FolderOptions, uses: Iterable[str]) -> Iterator[str]:
    """Yield the names of options that are set and not used."""
    for name, value in asdict(options).items():
        if name not in ALWAYS and name not in uses and value is not None:
            yield name
