"""The one source for all annotated folders: rows of an index in, scenes out, pixels only when somebody asks."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from synth.errors import SettingsError, SourceError, SynthError
from synth.rle import Runs
from synth.scene import Caption, Obj, Region, Relation, Scene
from synth.sources.annotation import Annotated, Outline, check
from synth.sources.fault import Fault
from synth.sources.format import Format
from synth.sources.index import Index, build, one_name
from synth.sources.masks import runs_of
from synth.sources.options import VAL_FRACTION, Folder, FolderOptions, check_options, described
from synth.sources.pictures import safe_name, upright

_DIVIDED = ("train", "val")  # the splits that file names are divided into
_INDEX = "index.sqlite"


def fingerprint(name: str, form: Format, options: FolderOptions) -> dict:
    """Return the options and the digest of the annotations; raises ``SourceError`` when there are none."""
    check_options(name, options, form.uses)
    with _reading(options):
        return {**described(options), "annotations_sha256": form.digest(Folder(source=name, options=options))}


@contextmanager
def _reading(options: FolderOptions) -> Iterator[None]:
    """Turn what goes wrong with a whole file of annotations into a ``SourceError``."""
    try:
        yield
    except SynthError:
        raise
    # ValueError: also a number of more digits than Python reads. RecursionError: lists in lists without end.
    except (OSError, ValueError, RecursionError, csv.Error) as problem:
        raise SourceError(
            f"cannot read {getattr(problem, 'filename', None) or options.path}", why=str(problem),
            fix=f"is folder.path={options.path} the right folder, and may you read what is in it?",
        ) from problem  # fmt: skip


class AnnotatedSource:
    """The pictures of one split of an annotated folder, one scene each, in the order of their file names.

    ``split`` is one of the format's own splits, or, where it has none, "train" or "val" (a share of
    ``folder.val_fraction``, chosen by the hash of the file name, so that adding pictures never moves others). "unseen"
    is the pictures of val, asked in words that train never uses; "all" is every picture. Bad annotations and pictures
    are quarantined with a reason (see ``annotation.check``).

    Args:
        name: the source's name. form: how the folder is read. work: folder for the index; one that is there is used.
        link: refuse pictures that cannot be linked to, since nobody will open them.

    Raises ``SourceError`` when the annotations cannot be read, ``SettingsError`` for a split that is not there.
    """

    def __init__(
        self, name: str, form: Format, options: FolderOptions, split: str, work: Path, *, link: bool = False
    ) -> None:
        check_options(name, options, form.uses)
        if not form.own_splits:
            _require_split(name, split, _DIVIDED)
        folder = Folder(source=name, options=options)
        path = work / _INDEX
        if not path.exists():
            work.mkdir(parents=True, exist_ok=True)
            share = VAL_FRACTION if options.val_fraction is None else options.val_fraction
            with _reading(options):
                read = form.pictures(folder).read if options.look_alikes else None
            with _reading(options):
                build(path, form.read(folder, work), share, read)
        self.name, self._licence = name, options.licence
        self._index = Index(path, None if split == "all" else "val" if split == "unseen" else one_name(split))
        if form.own_splits:
            divided = self._index.divided()
            for option in ("val_fraction", "look_alikes"):
                if getattr(options, option) is not None and not divided:
                    raise SettingsError(
                        f"source={name} has its own splits here", why="every picture says which split it belongs to",
                        fix=f"leave folder.{option} out",
                    )  # fmt: skip
            _require_split(name, split, {*self._index.splits(), *(_DIVIDED if divided else ())})
        self.vocabulary = self._index.names()
        self._pictures = form.pictures(folder)
        self._link = link
        self.root = self._pictures.root
        self._last: tuple[int, Annotated, list[Fault]] | None = None

    def __len__(self) -> int:
        return len(self._index)

    @property
    def faults(self) -> Iterator[Fault]:
        """The quarantined rows that belong to no picture."""
        return self._index.faults()

    def scene(self, index: int, split: str, seed: int | str) -> Scene:
        """Return picture ``index``; its file is opened only for its size, where the annotations have none.

        Raises ``PictureFault`` for a path that leaves the folder, and where the file is needed for a bad one;
        ``image_bytes()`` of the scene raises it for a missing, unreadable or wrongly sized picture.
        """
        picture, _ = self._checked(index)
        if self._link:
            self._pictures.require(picture.file)
        size = picture.width, picture.height
        masks = _Masks(self._index, index, picture)
        return Scene(
            index=index, width=size[0], height=size[1],
            objects=[
                Obj(id=t.id, name=t.name, box=tuple(t.box), attributes=t.attributes, traits=tuple(t.traits),
                    mask=partial(masks.draw, t.id))
                for t in picture.things
            ],
            image_bytes=lambda: upright(self._pictures.read(picture.file), size, picture.file),
            source=self.name, licence=picture.licence or self._licence, complete=False,
            exhaustive=picture.exhaustive, unlisted=tuple(map(tuple, picture.unlisted)),
            vocabulary=self._vocabulary(picture), file=picture.file,
            captions=[
                Caption(text=text, spans=tuple((start, end, tuple(ids)) for start, end, ids in spans))
                for text, spans in picture.captions
            ],
            relations=[Relation(subject=s, predicate=p, object=o) for s, p, o in picture.relations],
            regions=[Region(text=text, box=tuple(box), unique=unique) for text, box, unique in picture.regions],
        )  # fmt: skip

    def object_faults(self, index: int) -> list[Fault]:
        """Return the quarantined annotations of picture ``index``."""
        return self._checked(index)[1]

    def _checked(self, index: int) -> tuple[Annotated, list[Fault]]:
        if self._last is None or self._last[0] != index:
            picture, faults = self._index.row(index)
            safe_name(picture.file)
            if picture.width is None:
                picture, faults = check(picture, *self._pictures.size(picture.file))
            self._last = index, picture, faults
        return self._last[1:]

    def _vocabulary(self, picture: Annotated) -> tuple[str, ...]:
        """Names that may be asked about: present ones, and absent ones that are known to be so."""
        if picture.absent is not None:
            return tuple(sorted({*picture.absent, *(thing.name for thing in picture.things)} - set(picture.unsure)))
        if not picture.unsure:
            return self.vocabulary
        return tuple(name for name in self.vocabulary if name not in picture.unsure)


class _Masks:
    """Draws the masks of one picture's things, each once; outlines leave the index when the first is asked for."""

    def __init__(self, index: Index, place: int, picture: Annotated) -> None:
        self._index, self._place, self._picture = index, place, picture
        self._outlines: dict[int, Outline] | None = None
        self._drawn: dict[int, Runs] = {}

    def draw(self, thing: int) -> Runs | None:
        """Return the mask of a thing, None where only its box is known; raises ``OutlineError`` for a damaged one."""
        if self._outlines is None:
            self._outlines = self._index.outlines(self._place)
        if thing not in self._outlines:
            return None
        if thing not in self._drawn:
            picture = self._picture
            size = picture.width, picture.height
            self._drawn[thing] = runs_of(self._outlines[thing], *size, picture.fractions)
        return self._drawn[thing]


def _require_split(name: str, split: str, there: tuple[str, ...] | set[str]) -> None:
    known = sorted(there) + (["unseen"] if "val" in there else []) + ["all"]
    if one_name(split) not in known:
        raise SettingsError(
            f"source={name} cannot make split={split!r}", why=f"its splits are {', '.join(known)}",
            fix=f"for example split={known[0]}",
        )  # fmt: skip
