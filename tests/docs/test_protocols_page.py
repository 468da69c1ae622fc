"""docs/protocols.md is what the classes say."""

from lynx_moe.evaluation.protocols import PROTOCOLS
from lynx_moe.evaluation.protocols.page import page
from tests.architecture.source_tree import ROOT


def test_page_is_fresh():
    written = (ROOT / "docs" / "protocols.md").read_text(encoding="utf-8")
    assert written == page(), "python -m lynx_moe.evaluation.protocols > docs/protocols.md"


def test_page_tells_of_every_protocol_its_number_citation_and_promise():
    for name in PROTOCOLS.names():
        kind = PROTOCOLS.get(name)
        assert kind.name == name and kind.headline and kind.citation
        (row,) = [line for line in page().splitlines() if line.startswith(f"| `{name}` |")]
        assert kind.headline in row and len(row.split(" | ")[1]) > 20
