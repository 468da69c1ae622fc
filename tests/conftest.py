"""Fixtures for everybody: tiny vision-language models from their configs."""

import pytest

from tests import tiny

FAMILIES = {
    "llava": tiny.tiny_llava,
    "qwen2_5_vl": tiny.tiny_qwen2_5_vl,
    "smolvlm": tiny.tiny_smolvlm,
    "internvl": tiny.tiny_internvl,
}


@pytest.fixture(params=FAMILIES)
def vlm(request):
    """(model, inputs) of each family."""
    return FAMILIES[request.param]()


@pytest.fixture
def llava():
    return tiny.tiny_llava()
