"""Rules about single files: their size, their names, and what they must never contain."""

import ast
import re

import pytest

from tests.architecture.source_tree import ROOT, imports, python_files, relative, tree

CODE = python_files("lynx_moe", "synth") + [ROOT / "train.py"]
LONGEST = 400
DRAWERS = {"utils.py", "helpers.py", "common.py", "misc.py", "tools.py"}
# A self-contained export carries a modelling file of its own; loading it back means running that very file.
MAY_TRUST_REMOTE_CODE: set[str] = set()
MACHINE_PATHS = re.compile(r"(?<![\w.])/(?:work|root|home|farm)/|/tmp/[a-z]")


@pytest.mark.parametrize("path", CODE + python_files("tests"), ids=relative)
def test_file_is_short_enough_to_hold_one_idea(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST


@pytest.mark.parametrize("path", CODE, ids=relative)
def test_file_is_named_after_an_idea_not_a_drawer(path):
    assert path.name not in DRAWERS


@pytest.mark.parametrize("path", CODE, ids=relative)
def test_nothing_is_unpickled(path):
    assert not {i.module.split(".")[0] for i in imports(path)} & {"pickle", "dill", "cloudpickle", "joblib", "shelve"}
    loads = [n.lineno for n in ast.walk(tree(path)) if isinstance(n, ast.Call) and ast.unparse(n.func) == "torch.load"]
    assert not loads, f"torch.load on lines {loads}: use safetensors"


@pytest.mark.parametrize("path", CODE, ids=relative)
def test_remote_code_is_not_trusted_by_a_constant(path):
    lines = [
        node.value.lineno
        for node in ast.walk(tree(path))
        if isinstance(node, ast.keyword)
        and node.arg == "trust_remote_code"
        and isinstance(node.value, ast.Constant)
        and node.value.value is True
    ]
    assert not lines or relative(path) in MAY_TRUST_REMOTE_CODE, f"lines {lines}"


@pytest.mark.parametrize("path", CODE, ids=relative)
def test_no_unfinished_marks_and_no_machine_paths(path):
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        assert not re.search(r"\b(TODO|FIXME|XXX)\b", line), f"line {number}: {line.strip()}"
        assert not MACHINE_PATHS.search(line), f"line {number}: {line.strip()}"


@pytest.mark.parametrize("path", python_files("lynx_moe", "synth"), ids=relative)
def test_module_says_what_it_is_for(path):
    assert ast.get_docstring(tree(path)), f"{relative(path)} has no module docstring"
