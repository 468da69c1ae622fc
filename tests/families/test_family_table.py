"""The page of families says what the library does."""

from pathlib import Path

import pytest

from lynx_moe.family_table import families, family_rows, markdown

PAGE = Path(__file__).parents[2] / "docs" / "families.md"


@pytest.mark.parametrize("family", ["llava", "qwen3_vl_moe", "florence2", "blip-2"])
def test_rows_of_the_page_are_what_is_found(family):
    (row,) = family_rows([family])
    line = next(line for line in markdown([row]).splitlines() if line.startswith(f"| `{family}`"))
    assert line in PAGE.read_text(encoding="utf-8").splitlines()


def test_a_family_that_transformers_cannot_build_is_named_with_its_error():
    (row,) = family_rows(["chameleon"])
    assert row.refused and not row.ours and not row.blocks
    assert f"- `chameleon`: {row.refused}" in PAGE.read_text(encoding="utf-8")


def test_the_page_has_every_family_and_no_refusal_of_ours():
    text = PAGE.read_text(encoding="utf-8")
    assert all(f"`{family}`" in text for family in families())
    assert "## Refused here\n\nNone.\n" in text


@pytest.mark.slow
def test_the_whole_page_is_what_the_command_writes():
    assert markdown(family_rows()) == PAGE.read_text(encoding="utf-8")
