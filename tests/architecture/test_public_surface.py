"""What a user may rely on when writing `import lynx_moe`: the names, the registered method, and a cheap import."""

import subprocess
import sys

import pytest

import lynx_moe


def in_fresh_python(code: str) -> str:
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-2000:]
    return run.stdout.strip()


SEES_LYNX = "from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING as m; print(m['LYNX'].__name__)"


@pytest.mark.parametrize(
    "order",
    [
        f"import lynx_moe; {SEES_LYNX}",
        f"import peft, lynx_moe; {SEES_LYNX}",
        f"from lynx_moe import LynxConfig; {SEES_LYNX}",
        f"from lynx_moe.adapter.config import LynxConfig; {SEES_LYNX}",
    ],
    ids=["lynx_moe first", "peft first", "public name first", "submodule first"],
)
def test_importing_lynx_moe_registers_the_method_in_any_order(order):
    assert in_fresh_python(order) == "LynxConfig"


def test_importing_lynx_moe_imports_nothing_heavy():
    code = "import sys, lynx_moe, lynx_moe.cli; print(sorted({'torch', 'peft', 'transformers'} & set(sys.modules)))"
    assert in_fresh_python(code) == "[]"


@pytest.mark.parametrize("name", ["LynxConfig", "Grounder", "Box", "record_routing"])
def test_promised_name_is_there(name):
    assert getattr(lynx_moe, name).__name__ == name
    assert name in lynx_moe.__all__ and name in dir(lynx_moe)


def test_unknown_name_says_what_there_is():
    with pytest.raises(AttributeError, match="LynxConfig"):
        lynx_moe.LynxConfg  # noqa: B018 - the lookup itself is the test
