"""How a model family writes a box in text, and in which frame.

A new dialect is one file here with a class that `DIALECTS.register` files, and one line below.
"""

from lynx_moe.families.dialects.base import DIALECTS, Dialect, Parsed, dialect_of, get_dialect
from lynx_moe.families.dialects.geometry import Geometry
from lynx_moe.families.dialects.llava import LlavaDialect
from lynx_moe.families.dialects.percent import PercentDialect

__all__ = ["DIALECTS", "Dialect", "Geometry", "LlavaDialect", "Parsed", "PercentDialect", "dialect_of", "get_dialect"]
