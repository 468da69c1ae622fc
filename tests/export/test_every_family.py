"""Every family of `docs/families.md` goes out by a route that loads without this library, and answers as promised."""

import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText

from lynx_moe.export import code, export, plan
from lynx_moe.export.read import read
from tests.adapter.speaking import KINDS, adapted
from tests.every_family import tiny
from tests.export.exporting import logits

PAGE = Path(__file__).parents[2] / "docs" / "families.md"
FAMILIES = re.findall(r"^\| `([^`]+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
# Those that were hardest: parts renamed while loading, a layer that asks of what class its FFN is, no words to embed.
EVERY_RUN = ("mistral_large4", "ernie4_5_vl_moe", "pp_formulanet")
KIND_OF = {family: list(KINDS)[number % len(KINDS)] for number, family in enumerate(FAMILIES)}


def cases(of):
    return [pytest.param(family, marks=() if family in EVERY_RUN else pytest.mark.slow) for family in of]


def speaking(family):
    vlm, inputs = tiny(family)
    base = logits(vlm, inputs)
    model = adapted(vlm, **KINDS[KIND_OF[family]])
    live = logits(model, inputs)
    assert live.isfinite().all() and (live - base).abs().max() > 1e-2
    return model, inputs, base, live


@pytest.mark.parametrize("family", cases(FAMILIES))
def test_code_holds_every_family_bit_for_bit(family, tmp_path, quick_check):
    model, inputs, base, live = speaking(family)
    report = export(model, None, tmp_path / "out", route="code", examples={"prompt": inputs}, new_tokens=3)
    assert report["max_abs_logit_diff"] == 0.0 and report["generation_equal"]
    exported = AutoModelForImageTextToText.from_pretrained(tmp_path / "out", trust_remote_code=True).eval()
    assert torch.equal(logits(exported, inputs), live)
    exported.config.prompt_gate = "off"
    assert torch.equal(logits(exported, inputs), base)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_route_that_auto_takes_needs_nothing_of_ours_and_keeps_its_promise(family, tmp_path, quick_check):
    model, inputs, _, live = speaking(family)
    planned = plan(model)
    assert planned.route != "adapter"
    if planned.route == "code":
        assert code.refusal(read(model)) is None  # what it makes is compared above
        return
    report = export(model, None, tmp_path / "out", examples={"prompt": inputs}, new_tokens=3)
    assert (report["route"], report["host"]) == (planned.route, planned.host)
    exported = AutoModelForImageTextToText.from_pretrained(tmp_path / "out").eval()
    torch.testing.assert_close(logits(exported, inputs), live, rtol=1e-5, atol=1e-5)


def test_no_family_of_the_page_is_missing():
    assert len(FAMILIES) == len(set(FAMILIES)) >= 84 and set(EVERY_RUN) <= set(FAMILIES)
