"""How a model family writes a box in text, and in which frame.

A new dialect is one file here with a class that `DIALECTS.register` files, and one line below.
"""

from lynx_moe.families.dialects.base import DIALECTS, Dialect, Parsed, dialect_of, get_dialect
from lynx_moe.families.dialects.deepseek_vl2 import DeepseekVL2Dialect
from lynx_moe.families.dialects.ferret import FerretDialect
from lynx_moe.families.dialects.florence2 import Florence2Dialect
from lynx_moe.families.dialects.gemma import GemmaDialect
from lynx_moe.families.dialects.geometry import Geometry
from lynx_moe.families.dialects.glm4v import Glm4vDialect
from lynx_moe.families.dialects.internvl import InternVLDialect
from lynx_moe.families.dialects.kimi_vl import KimiVLDialect
from lynx_moe.families.dialects.kosmos2 import Kosmos2Dialect
from lynx_moe.families.dialects.llava import LlavaDialect
from lynx_moe.families.dialects.molmo import Molmo2Dialect, MolmoDialect
from lynx_moe.families.dialects.ovis2_5 import Ovis25Dialect
from lynx_moe.families.dialects.paligemma import PaliGemmaDialect
from lynx_moe.families.dialects.percent import PercentDialect
from lynx_moe.families.dialects.qwen2_5_vl import Qwen25VLDialect
from lynx_moe.families.dialects.qwen2_vl import Qwen2VLDialect
from lynx_moe.families.dialects.qwen3_vl import Qwen3VLDialect
from lynx_moe.families.dialects.qwen_vl import QwenVLDialect
from lynx_moe.families.dialects.shikra import ShikraDialect

__all__ = [
    "DIALECTS",
    "DeepseekVL2Dialect",
    "Dialect",
    "FerretDialect",
    "Florence2Dialect",
    "GemmaDialect",
    "Geometry",
    "Glm4vDialect",
    "InternVLDialect",
    "KimiVLDialect",
    "Kosmos2Dialect",
    "LlavaDialect",
    "Molmo2Dialect",
    "MolmoDialect",
    "Ovis25Dialect",
    "PaliGemmaDialect",
    "Parsed",
    "PercentDialect",
    "Qwen25VLDialect",
    "Qwen2VLDialect",
    "Qwen3VLDialect",
    "QwenVLDialect",
    "ShikraDialect",
    "dialect_of",
    "get_dialect",
]
