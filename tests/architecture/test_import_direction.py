"""Imports point one way. The table is the picture of docs/architecture.md; move a wall there and here together."""

import pytest

from tests.architecture.source_tree import ROOT, imports, python_files, relative

BASE = {"digests", "errors", "registry"}
MAY_IMPORT = {
    "errors": set(),
    "registry": {"errors"},
    "digests": set(),
    "interval": set(),
    "whole": {"errors"},
    "tensor_store": {"errors", "whole"},
    "peft_hook": {"adapter"},
    "ops": BASE,
    "grounding": BASE,
    "families": BASE | {"ops", "grounding"},
    "adapter": BASE | {"ops", "grounding", "families"},
    "data": BASE | {"grounding", "families"},
    "evaluation": BASE | {"grounding", "families", "data", "objectives", "interval", "whole"},
    "objectives": BASE | {"ops", "grounding", "families", "adapter", "data", "tensor_store"},
    "export": BASE
    | {"ops", "grounding", "families", "adapter", "data", "objectives", "evaluation", "interval", "whole"},
    "integrations": BASE | {"adapter"},
    # Nobody imports the pocket base: it is reached as pkg://lynx_moe.pocket/weights, like a base in any other package.
    "pocket": BASE | {"grounding", "families", "data", "evaluation"},
    "training": BASE
    | {"ops", "grounding", "families", "adapter", "data", "evaluation", "objectives", "tensor_store", "whole"},
}
# Reads what runs leave behind, and loads no model.
MAY_IMPORT["report"] = BASE | {"interval", "whole", "training"}
# Opens anything that can answer; only programs and, inside its functions, the Grounder use it.
MAY_IMPORT["loading"] = MAY_IMPORT["training"] | {"training", "export"}
# A study of its own on top of all; only the command line calls it.
MAY_IMPORT["perception"] = MAY_IMPORT["training"] | {"training"}
# Looks at a training before it starts; only the command line calls it.
MAY_IMPORT["doctor"] = MAY_IMPORT["training"] | {"training"}
# Measures what is there; only the command line calls it.
MAY_IMPORT["bench"] = MAY_IMPORT["loading"] | {"loading"}
# Programs, not library: they put the rooms together and nothing may import them.
PROGRAMS = {"cli", "evaluate_cli", "export_cli", "family_table", "quickstart", "reconstruction_sheet"}
# One file, one reason each.
EXCEPTIONS = {
    # The public one-line way to point: it loads a model, so it reaches up, inside its functions only.
    "lynx_moe/grounding/grounder.py": {"families", "data", "evaluation", "loading", "objectives"},
    # The public one-line way to embed, likewise.
    "lynx_moe/evaluation/scoring/embedder.py": {"loading"},
    # Another harness names a path, and this opens it, inside functions only.
    "lynx_moe/integrations/lmms_eval.py": {"data", "evaluation", "loading"},
}
HEAVY_HOMES = {"peft": "lynx_moe/adapter/"}
ONE_IMPORTER = ["deepspeed", "bitsandbytes", "gradio", "ray", "httpx2", "pybullet", "optuna", "timm"]


def room(path: str) -> str:
    return path.removeprefix("lynx_moe/").split("/")[0].removesuffix(".py")


def rooms_imported(path) -> set[str]:
    names = [i.module.split(".") for i in imports(path)]
    rooms = {parts[1] for parts in names if parts[0] == "lynx_moe" and len(parts) > 1}
    return {name for name in rooms if (ROOT / "lynx_moe" / name).exists() or (ROOT / f"lynx_moe/{name}.py").exists()}


def test_a_room_imports_only_the_rooms_below_it():
    for path in (p for p in python_files("lynx_moe") if p.parent.name != "lynx_moe"):
        here = room(relative(path))
        assert here in MAY_IMPORT, f"new room {here!r}: say in MAY_IMPORT what it may import"
        allowed = MAY_IMPORT[here] | EXCEPTIONS.get(relative(path), set()) | {here}
        assert rooms_imported(path) <= allowed, f"{relative(path)} imports {sorted(rooms_imported(path) - allowed)}"


@pytest.mark.parametrize("name", sorted(MAY_IMPORT))
def test_the_table_has_no_circle(name):
    seen, open_rooms = set(), set(MAY_IMPORT[name])
    while open_rooms:
        below = open_rooms.pop()
        assert below != name, f"{name} may import itself through others"
        if below not in seen:
            seen.add(below)
            open_rooms |= MAY_IMPORT[below]


def test_top_level_modules_keep_to_the_table_unless_they_are_programs():
    for path in (ROOT / "lynx_moe").glob("*.py"):
        here = room(relative(path))
        if here in PROGRAMS | {"__init__"}:
            continue
        assert rooms_imported(path) <= MAY_IMPORT[here] | {here}, relative(path)


def test_exceptions_reach_up_only_inside_functions():
    import ast

    from tests.architecture.source_tree import tree

    for name, rooms in EXCEPTIONS.items():
        for node in tree(ROOT / name).body:
            if isinstance(node, ast.ImportFrom | ast.Import):
                text = ast.unparse(node)
                assert not [r for r in rooms if f"lynx_moe.{r}" in text], f"{name}:{node.lineno} {text}"


def test_synth_knows_neither_torch_nor_models():
    for path in python_files("synth"):
        assert not _roots(path) & {"torch", "lynx_moe", "transformers", "peft", "accelerate"}, relative(path)


def test_lynx_moe_imports_nothing_of_synth_but_its_readers_and_only_in_protocols():
    for path in python_files("lynx_moe"):
        taken = [i.module for i in imports(path) if i.module.split(".")[0] == "synth"]
        assert all(module.startswith("synth.sources.") for module in taken), relative(path)
        assert not taken or relative(path).startswith("lynx_moe/evaluation/protocols/"), relative(path)


@pytest.mark.parametrize(("package", "home"), HEAVY_HOMES.items())
def test_heavy_package_is_imported_only_at_its_home(package, home):
    importers = [relative(p) for p in python_files("lynx_moe") if package in _roots(p)]
    assert all(name.startswith(home) for name in importers), importers


@pytest.mark.parametrize("package", ONE_IMPORTER)
def test_optional_package_has_at_most_one_importer(package):
    importers = [relative(p) for p in python_files("lynx_moe", "synth") if package in _roots(p)]
    assert len(importers) <= 1, importers


def _roots(path) -> set[str]:
    return {i.module.split(".")[0] for i in imports(path)}
