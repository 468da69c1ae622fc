"""XML from strangers: read without document types, so that no entity can grow or reach a file."""

from __future__ import annotations

import math
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

XML_FAULTS = (ElementTree.ParseError, ValueError, LookupError, OSError)  # LookupError: an encoding nobody knows


class NoDoctype:
    """A parser's target that raises ``ValueError`` at a document type declaration."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("a document type in an annotation file")


class _Tree(NoDoctype, ElementTree.TreeBuilder):
    """Builds a whole tree."""


def parse(path: Path) -> Element:
    """Return the root of a small file; raises one of ``XML_FAULTS``."""
    return ElementTree.parse(path, ElementTree.XMLParser(target=_Tree())).getroot()


def text(node: Element, path: str) -> str:
    """Return the text at ``path`` below the node, without spaces around it; empty when there is none."""
    return (node.findtext(path) or "").strip()


def number(node: Element, path: str) -> float | None:
    """Return the finite number at ``path``, or None."""
    return as_number(text(node, path))


def as_number(value: str | None) -> float | None:
    """Return a text as a finite number, or None."""
    try:
        found = float(value or "")
    except ValueError:
        return None
    return found if math.isfinite(found) else None
