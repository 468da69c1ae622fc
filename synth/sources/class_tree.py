"""The tree of Open Images' classes: a box of a man is one of a person too, whether or not anybody drew it again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from synth.errors import SourceError

_USUAL = ("bbox_labels_*hierarchy.json", "*/bbox_labels_*hierarchy.json")


def find(path: Path) -> Path | None:
    """Return the file of the tree in a folder, as the Open Images site calls it, or None."""
    return next((hit for pattern in _USUAL for hit in sorted(path.glob(pattern))), None)


def ancestors(path: Path | None) -> dict[str, frozenset[str]]:
    """Return, for each label of the tree in a file, the labels of all that contains it; without a file, nothing.

    Parts ("Part" in the file) are left out: a wheel is no car. Raises ``SourceError`` for a file of another form.
    """
    above: dict[str, set[str]] = {}
    if path is not None:
        try:
            root = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as problem:
            raise SourceError(f"{path} is not JSON", why=str(problem), fix="download it again") from problem
        for label, parents in _walk(root, path):
            above.setdefault(label, set()).update(parents)  # a class may stand in several places
    return {label: frozenset(parents - {label}) for label, parents in above.items()}


def _walk(root: object, path: Path) -> Iterator[tuple[str, frozenset[str]]]:
    """(label, labels above it) of every place in the tree."""
    todo: list[tuple[object, frozenset[str]]] = [(root, frozenset())]
    while todo:
        node, above = todo.pop()
        below = node.get("Subcategory", []) if isinstance(node, dict) else None
        if not isinstance(below, list) or not isinstance(label := node.get("LabelName"), str):
            raise SourceError(
                f"{path} is no tree of classes", why="an entry has no LabelName, or its Subcategory is no list",
                fix="use bbox_labels_600_hierarchy.json of the Open Images site as it is, or take it away",
            )  # fmt: skip
        yield label, above
        todo += [(child, above | {label}) for child in below]
