"""What the models are told: data files, filled in by name. They decide what records say, so they count as code."""

from __future__ import annotations

import tomllib
from functools import lru_cache
from pathlib import Path
from string import Template

_FOLDER = Path(__file__).parent


@lru_cache
def load_prompts(name: str) -> dict[str, Template]:
    """Return the texts of one file by their names; ``$word`` in them is filled in with ``substitute``."""
    content = tomllib.loads((_FOLDER / f"{name}.toml").read_text(encoding="utf-8"))
    return {key: Template(text.strip()) for key, text in content.items()}
