"""Errors say what, why and fix; registries refuse duplicates and miss helpfully."""

import pickle

import pytest

from lynx_moe import errors
from lynx_moe.registry import Registry

KINDS = {
    errors.ConfigError: ValueError,
    errors.FamilyError: ValueError,
    errors.RecordError: ValueError,
    errors.DialectError: ValueError,
    errors.CheckpointError: RuntimeError,
    errors.DivergedError: FloatingPointError,
    errors.OutputExistsError: FileExistsError,
    errors.InUseError: BlockingIOError,
    errors.ExportError: RuntimeError,
}


@pytest.mark.parametrize(("kind", "builtin"), KINDS.items(), ids=lambda k: k.__name__)
def test_an_error_is_also_its_builtin_and_says_all_three_things(kind, builtin):
    with pytest.raises(builtin) as caught:
        raise kind("no shard 3", why="the folder is unfinished", fix="run again")
    assert str(caught.value) == "no shard 3\n  why: the folder is unfinished\n  fix: run again"
    assert isinstance(caught.value, errors.LynxError)


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
def test_an_error_survives_a_process_boundary(kind):
    there = pickle.loads(pickle.dumps(kind("a", why="b", fix="c")))
    assert type(there) is kind and str(there) == str(kind("a", why="b", fix="c"))


def test_a_taken_name_is_refused():
    shapes = Registry("shape")
    shapes.register("circle")(object())
    with pytest.raises(errors.ConfigError, match="registered twice"):
        shapes.register("circle")(object())


def test_a_miss_names_the_kind_and_the_nearest():
    shapes = Registry("shape")
    for name in ("circle", "square", "triangle"):
        shapes.register(name)(name)
    assert shapes.names() == ["circle", "square", "triangle"] and len(shapes) == 3
    with pytest.raises(errors.ConfigError, match="no shape called 'circl'") as caught:
        shapes.get("circl")
    assert "did you mean 'circle'" in str(caught.value)
