"""A dictionary filled by decorators that refuses duplicates and misses helpfully."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from lynx_moe.errors import ConfigError, nearest

T = TypeVar("T")


class Registry(Generic[T]):
    """Names to things, one kind of thing each.

    Args:
        kind: what the entries are, singular, for messages ("gate penalty").

    >>> shapes = Registry("shape")
    >>> @shapes.register("circle")
    ... def circle(): return "o"
    >>> shapes.get("circle")()
    'o'
    """

    def __init__(self, kind: str):
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that files what it decorates under `name`.

        Raises:
            ConfigError: the name is taken.
        """

        def file(thing: T) -> T:
            if name in self._entries:
                raise ConfigError(
                    f"{self.kind} {name!r} is registered twice",
                    why=f"{self._entries[name]!r} already has this name",
                    fix="choose another name",
                )
            self._entries[name] = thing
            return thing

        return file

    def get(self, name: str) -> T:
        """The entry called `name`.

        Raises:
            ConfigError: there is none; the message offers the nearest names.
        """
        try:
            return self._entries[name]
        except (KeyError, TypeError):
            raise ConfigError(
                f"no {self.kind} called {name!r}",
                why=f"known: {', '.join(self.names())}",
                fix=f"did you mean {' or '.join(repr(n) for n in nearest(name, self.names()))}?",
            ) from None

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self._entries)
