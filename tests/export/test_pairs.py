"""Every text decoder that a host holds, inside every VLM class that takes a foreign one: whole, in turns."""

from itertools import cycle

import pytest
from transformers import AutoModelForImageTextToText

from lynx_moe.export import native
from lynx_moe.export.native.slots import READS_FFN_WIDTH
from lynx_moe.export.read import read
from tests.adapter.speaking import adapted
from tests.export.exporting import export_of, logits
from tests.export.shells import DECODERS, SHELLS, shell

SIGMOID = {"mix": "additive", "layers": [1, 3]}
ONE = {"mix": "additive", "num_experts": 1, "top_k": 1, "layers": "all"}
CONVEX = {"mix": "convex", "layers": [2]}
WAYS = {
    "llama": (SIGMOID, CONVEX, ONE),
    "mistral": (CONVEX, SIGMOID),
    "qwen2": (SIGMOID, CONVEX),
    "qwen3": (SIGMOID,),
    "qwen2_vl_text": (CONVEX, SIGMOID),
    "granite": (CONVEX, ONE),
    "cohere2": (SIGMOID, CONVEX),
    "qwen3_5_text": (CONVEX, ONE),
}
# Whose hosts call another width "intermediate_size".
OTHER_WIDTH = ("granite", "cohere2", "qwen3_5_text")
TRIED_HERE_ONLY = ("mistral", "qwen2_vl_text", "granite")
LEFT_OUT = (
    # The class asks the decoder's config for the epsilon of a norm that this decoder has not.
    ("lighton_ocr", "cohere2"),
    ("mistral3", "cohere2"),
    # The class gives positions on three axes, which no host of this decoder has: refused, below.
    ("minicpmv4_7", "qwen2_vl_text"),
)


def turns():
    """Every pair with a way to mix; one of each decoder that no other test tries is in the default run."""
    found = []
    for place, (decoder, ways) in enumerate(WAYS.items()):
        for number, (name, way) in enumerate(zip(SHELLS, cycle(ways), strict=False)):
            first = number == (7 * place + 1) % len(SHELLS)
            if name in READS_FFN_WIDTH and decoder in OTHER_WIDTH or (name, decoder) in LEFT_OUT:
                continue
            marks = () if first and decoder in TRIED_HERE_ONLY else pytest.mark.slow
            found.append(pytest.param(name, decoder, way, id=f"{decoder} in {name}", marks=marks))
    return found


@pytest.mark.parametrize(("name", "decoder", "way"), turns())
def test_decoder_and_class_keep_the_live_logits(name, decoder, way, tmp_path, quick_check):
    vlm, inputs = shell(name, decoder)
    model = adapted(vlm, **way)
    live, shut = logits(model, inputs, gate=True), logits(model, inputs, gate=False)
    promised = native.promise(read(model))
    report = export_of(model, inputs, tmp_path / "out", route="native", new_tokens=3)
    exported, info = AutoModelForImageTextToText.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert report["host"] == promised.host and report["generation_equal"]
    found = logits(exported.eval(), inputs)
    size = live.abs().max()
    assert (found - live).abs().max() <= promised.bound * size.clamp(min=1.0)
    assert (found - shut).abs().max() > 1e-3 * size


@pytest.mark.parametrize("decoder", OTHER_WIDTH)
def test_class_that_reads_the_ffn_width_refuses_hosts_that_call_another_width_so(decoder):
    model = adapted(shell("idefics2", decoder)[0], mix="convex")
    assert "connector is as wide" in native.refusal(read(model))


def test_positions_on_three_axes_are_refused_where_the_class_gives_them():
    model = adapted(shell("minicpmv4_7", "qwen2_vl_text")[0])
    assert "three axes" in native.refusal(read(model))


def test_every_decoder_of_every_host_is_tried():
    tried = set(WAYS) | {"qwen2_5_vl_text", "qwen3_vl_text"}
    assert {kind for name in native.HOSTS for kind in native.HOSTS.get(name).decoders} == tried
    assert set(DECODERS) == set(WAYS)
