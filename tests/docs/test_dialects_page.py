"""The table of docs/dialects.md says of every registered dialect what its code does."""

import re
from pathlib import Path

import pytest

from lynx_moe.errors import DialectError
from lynx_moe.families.dialects import DIALECTS
from lynx_moe.grounding import Box

PAGE = Path(__file__).resolve().parents[2] / "docs" / "dialects.md"
# name | spelling | frame | families | source | unverified, where "|" inside of a cell is written "\|"
ROWS = {
    cells[0].strip("` "): [cell.strip().replace("\\|", "|") for cell in cells]
    for line in PAGE.read_text(encoding="utf-8").splitlines()
    if line.startswith("| `") and len(cells := re.split(r"(?<!\\)\|", line.strip("|"))) == 6
}


def spelling(dialect) -> str:
    """What stands for a box called "cat" on the page; of a dialect without boxes, a point."""
    try:
        return dialect.encode(Box(64, 48, 320, 240, "cat"), (640, 480))
    except DialectError:
        return dialect.encode_point((64, 48), (640, 480))


def row(name: str) -> str:
    """The row that ought to be there, with its last two cells left to be written."""
    dialect = DIALECTS.get(name)()
    frame = "picture" if dialect.of_picture else "what is seen"
    families = ", ".join(f"`{family}`" for family in dialect.families) or "-"
    cells = (f"`{name}`", f"`{spelling(dialect)}`", frame, families, "...", "...")
    return " | ".join(cell.replace("|", "\\|") for cell in cells)


def test_every_dialect_has_one_row_and_every_row_a_dialect():
    missing = [row(name) for name in DIALECTS if name not in ROWS]
    assert not missing, "add to docs/dialects.md:\n" + "\n".join(f"| {line} |" for line in missing)
    assert set(ROWS) == set(DIALECTS)


@pytest.mark.parametrize("name", DIALECTS.names())
def test_row_says_what_the_dialect_writes_where_it_counts_and_who_speaks_it(name):
    _, written, frame, families, source, unverified = ROWS[name]
    _, expected, counted, speaking, *_ = (
        cell.strip().replace("\\|", "|") for cell in re.split(r" (?<!\\)\| ", row(name))
    )
    assert written == expected
    assert frame.startswith(counted)
    assert families == speaking
    assert len(source) > 5
    doc = type(DIALECTS.get(name)()).__doc__
    assert (unverified != "-") == ("nverified" in doc), "the page and the docstring disagree on what is verified"
