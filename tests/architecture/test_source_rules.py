"""Rules about single files: their size, their names, and what they must never contain.

One test per rule over all files: thousands of small ones cost more than what they look at.
"""

import ast
import re

from tests.architecture.source_tree import ROOT, imports, python_files, relative, tree

PACKAGES = python_files("lynx_moe", "synth")
CODE = PACKAGES + [ROOT / "train.py"]
LONGEST = 400
DRAWERS = {"utils.py", "helpers.py", "common.py", "misc.py", "tools.py"}
PICKLING = {"pickle", "dill", "cloudpickle", "joblib", "shelve"}
# A self-contained export carries a modelling file of its own; loading it back means running that very file.
MAY_TRUST_REMOTE_CODE: set[str] = set()
MACHINE_PATHS = re.compile(r"(?<![\w.])/(?:work|root|home|farm)/|/tmp/[a-z]")
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX)\b")


def lines_of(path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def test_files_are_short_enough_to_hold_one_idea():
    long = {relative(path): len(lines_of(path)) for path in CODE + python_files("tests")}
    assert not {name: length for name, length in long.items() if length > LONGEST}


def test_files_are_named_after_an_idea_not_a_drawer():
    assert not [relative(path) for path in CODE if path.name in DRAWERS]


def test_nothing_is_unpickled():
    for path in CODE:
        assert not {i.module.split(".")[0] for i in imports(path)} & PICKLING, relative(path)
        calls = [n for n in ast.walk(tree(path)) if isinstance(n, ast.Call)]
        loads = [n.lineno for n in calls if ast.unparse(n.func) == "torch.load"]
        assert not loads, f"torch.load in {relative(path)} on lines {loads}: use safetensors"


def test_remote_code_is_not_trusted_by_a_constant():
    for path in (p for p in CODE if relative(p) not in MAY_TRUST_REMOTE_CODE):
        keywords = [n for n in ast.walk(tree(path)) if isinstance(n, ast.keyword) and n.arg == "trust_remote_code"]
        constant = [k.value.lineno for k in keywords if isinstance(k.value, ast.Constant) and k.value.value is True]
        assert not constant, f"{relative(path)}, lines {constant}"


def test_no_unfinished_marks_and_no_machine_paths():
    found = [
        f"{relative(path)}:{number}: {line.strip()}"
        for path in CODE
        for number, line in enumerate(lines_of(path), start=1)
        if UNFINISHED.search(line) or MACHINE_PATHS.search(line)
    ]
    assert not found


def test_modules_say_what_they_are_for():
    assert not [relative(path) for path in PACKAGES if not ast.get_docstring(tree(path))]
