"""Route "native": the frozen FFN becomes the shared expert, the new experts the routed experts, of an architecture that
transformers already has. No code travels with the weights.

`slots.py` says which VLM classes take a foreign text decoder, and that was measured; a host is one file with one class
(`host.py` is what they share): what it refuses, the config it wants, the tensors of one layer, and how to read them
back. Adding a host is one such file and its import here.
"""

from lynx_moe.export.native import cohere2_moe, glm4_moe, granitemoeshared, qwen2_moe, qwen3_5_moe
from lynx_moe.export.native.building import build
from lynx_moe.export.native.choosing import choose, closed_slot, promise, refusal
from lynx_moe.export.native.host import HOSTS, Host
from lynx_moe.export.native.slots import OPEN_TEXT_SLOTS

__all__ = [
    "HOSTS",
    "OPEN_TEXT_SLOTS",
    "Host",
    "build",
    "choose",
    "closed_slot",
    "cohere2_moe",
    "glm4_moe",
    "granitemoeshared",
    "promise",
    "qwen2_moe",
    "qwen3_5_moe",
    "refusal",
]
