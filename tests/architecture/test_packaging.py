"""What is installed is what is used: dependencies are declared, data files exist, and CI's pins fit the ranges."""

import re
import sys
import tomllib
from importlib.metadata import packages_distributions

import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from setuptools import find_packages

from tests.architecture.source_tree import ROOT, imports, python_files

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PROJECT["project"]["optional-dependencies"]
LOCK = (ROOT / ".ci" / "requirements.lock").read_text(encoding="utf-8")
OURS = {"lynx_moe", "synth", "tests", "train"}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(*extras: str) -> dict[str, Requirement]:
    """What the project needs with these extras and the extras that they name in turn."""
    lines = PROJECT["project"]["dependencies"] + [line for extra in extras for line in EXTRAS[extra]]
    found = [Requirement(line) for line in lines]
    named = {extra for r in found if r.name == "lynx-moe" for extra in r.extras} - set(extras)
    own = {canonical(r.name): r for r in found if r.name != "lynx-moe"}
    return declared(*extras, *named) if named else own


def distributions(*folders: str) -> set[str]:
    """Canonical names of the distributions that the code in `folders` imports."""
    roots = {i.module.split(".")[0] for path in python_files(*folders) for i in imports(path)}
    outside = roots - OURS - set(sys.stdlib_module_names) - {""}
    known = packages_distributions()
    return {canonical(known.get(root, [root])[0]) for root in outside}


def test_every_package_that_the_code_imports_is_declared():
    everything = declared(*(set(EXTRAS) - {"dev"}))
    assert distributions("lynx_moe", "synth") <= set(everything), "declare it in pyproject.toml"


def test_every_package_that_the_tests_import_is_in_dev():
    assert distributions("tests") - {"setuptools"} <= set(declared("dev"))


@pytest.mark.parametrize("name", sorted(declared("dev")))
def test_pinned_version_is_inside_the_declared_range(name):
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", LOCK, flags=re.M))
    pinned = {canonical(key): value for key, value in pins.items()}
    requirement = declared("dev")[name]
    assert requirement.specifier.contains(Version(pinned[name])), f"{requirement} and {pinned[name]}"


def test_lock_holds_nothing_but_versions():
    lines = [line for line in LOCK.splitlines() if not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.!]+", line)] == []


def test_both_packages_are_found_and_nothing_else():
    found = find_packages(str(ROOT), include=PROJECT["tool"]["setuptools"]["packages"]["find"]["include"])
    assert {name.split(".")[0] for name in found} == {"lynx_moe", "synth"}
    rooms = {p.parent.relative_to(ROOT).as_posix().replace("/", ".") for p in python_files("lynx_moe", "synth")}
    assert rooms == set(found), "a folder of code without __init__.py is not installed"


@pytest.mark.parametrize(
    ("package", "pattern"),
    [(package, one) for package, all_of in PROJECT["tool"]["setuptools"]["package-data"].items() for one in all_of],
)
def test_data_pattern_matches_files(package, pattern):
    assert any(path.is_file() for path in (ROOT / package.replace(".", "/")).glob(pattern))


def test_every_data_file_in_the_packages_is_installed():
    patterns = PROJECT["tool"]["setuptools"]["package-data"]
    covered = {
        path
        for package, all_of in patterns.items()
        for pattern in all_of
        for path in (ROOT / package.replace(".", "/")).glob(pattern)
    }
    files = {p for folder in ("lynx_moe", "synth") for p in (ROOT / folder).rglob("*") if p.is_file()}
    data = {p for p in files if p.suffix not in (".py", ".pyc") and "__pycache__" not in p.parts}
    assert sorted(str(p.relative_to(ROOT)) for p in data - covered) == []
