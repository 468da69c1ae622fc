"""What a user may rely on when writing `import lynx_moe`: the names, the registered method, and a cheap import."""

import subprocess
import sys

import pytest

import lynx_moe


def in_fresh_python(code: str) -> str:
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-2000:]
    return run.stdout.strip()


ORDERS = [
    "import lynx_moe",
    "import peft, lynx_moe",
    "from lynx_moe import LynxConfig",
    "from lynx_moe.adapter.config import LynxConfig",
    "import lynx_moe.training.running",
]
# Both packages are forgotten before each order: as good as a new process, and without the seconds that torch takes.
IN_EACH_ORDER = """
import sys
for order in ORDERS:
    for name in [n for n in sys.modules if n.split('.')[0] in ('peft', 'lynx_moe')]:
        del sys.modules[name]
    sys.meta_path[:] = [f for f in sys.meta_path if type(f).__module__ != 'lynx_moe.peft_hook']
    exec(order, {})
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING as known
    print(known['LYNX'].__name__, known['LYNX'] is sys.modules['lynx_moe.adapter.config'].LynxConfig)
"""


def test_importing_lynx_moe_registers_the_method_in_any_order():
    seen = in_fresh_python(f"ORDERS = {ORDERS}\n{IN_EACH_ORDER}").splitlines()
    assert dict(zip(ORDERS, seen, strict=True)) == dict.fromkeys(ORDERS, "LynxConfig True")


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
