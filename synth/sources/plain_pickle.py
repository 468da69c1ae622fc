"""Pickle files of plain data, read without unpickling: the opcodes are listed, and only those that build containers,
words and numbers are carried out here. Nothing in such a file can name a function, so nothing of it can run."""

from __future__ import annotations

import pickletools
from pathlib import Path
from typing import Any

from synth.errors import SourceError

_VALUES = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE"
    " SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES".split()
)
_FIXED = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MARK = object()


def load(path: Path) -> Any:
    """Return the lists, dicts, tuples, texts and numbers in a pickle file.

    Raises ``SourceError`` that names the first opcode which is anything else, or says where the file is broken.
    """
    try:
        with open(path, "rb") as file:
            return _run(file)
    except (ValueError, TypeError, IndexError, KeyError, AttributeError, OSError) as problem:
        raise SourceError(
            f"{path} is not a pickle of plain data: {problem}", why="whatever else a pickle holds could run a program",
            fix="give the same content as JSON in a file that ends in .json",
        ) from problem  # fmt: skip


def _run(file: Any) -> Any:
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    for opcode, value, at in pickletools.genops(file):
        name = opcode.name
        if name in ("PROTO", "FRAME"):
            pass
        elif name in _VALUES:
            stack.append(value)
        elif name in _FIXED:
            stack.append(_FIXED[name])
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("EMPTY_LIST", "EMPTY_DICT"):
            stack.append([] if name == "EMPTY_LIST" else {})
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[value] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[value])
        elif name in ("LIST", "TUPLE", "DICT"):
            items = _marked(stack)
            stack.append({"LIST": list, "TUPLE": tuple, "DICT": _pairs}[name](items))
        elif name in _TUPLES:
            items = [stack.pop() for _ in range(_TUPLES[name])]
            stack.append(tuple(reversed(items)))
        elif name in ("APPEND", "APPENDS"):
            items = [stack.pop()] if name == "APPEND" else _marked(stack)
            stack[-1].extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = [stack.pop(-2), stack.pop()] if name == "SETITEM" else _marked(stack)
            stack[-1].update(_pairs(items))
        elif name == "STOP":
            return stack.pop()
        else:
            raise ValueError(f"opcode {name} at byte {at}" + (f" ({value})" if value else ""))
    raise ValueError("it has no end")


def _marked(stack: list[Any]) -> list[Any]:
    at = len(stack) - 1
    while stack[at] is not _MARK:
        at -= 1
        if at < 0:
            raise ValueError("a mark is missing")
    items = stack[at + 1 :]
    del stack[at:]
    return items


def _pairs(items: list[Any]) -> dict[Any, Any]:
    if not all(isinstance(key, (str, int)) for key in items[::2]):  # tuples in tuples would overflow the stack
        raise ValueError("a key that is neither text nor a whole number")
    return dict(zip(items[::2], items[1::2], strict=True))
