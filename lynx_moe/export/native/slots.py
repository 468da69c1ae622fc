"""Which VLM classes take a text decoder of another architecture than their own.

A slot is open when the class, built around a qwen2_moe decoder in place of its own, is saved and loaded again by
`AutoModelForImageTextToText` with no tensor missing, and answers the same. Each family that transformers knows was
measured so (`tests/export/test_slots.py` does it again); classes that are not here turn `text_config` into their own
decoder's, or build that whatever it says.
"""

from __future__ import annotations

_BY_SOURCE = "yes, by source"
_NOT_THERE = "no: it has no such class"
_COHERE = "no: it builds Cohere2ForCausalLM whatever text_config says"
_LLAMA = "no: it builds LlamaModel whatever text_config says"

# Model type to what vLLM does with it, read in its source (facts for 0.33): most of its classes build whatever
# decoder `text_config` names (`init_vllm_registered_model`), some one of their own.
OPEN_TEXT_SLOTS: dict[str, str] = {
    "aya_vision": _COHERE,
    "cohere2_vision": _COHERE,
    "cosmos3_omni": "unknown",
    "deepseek_vl": _NOT_THERE,
    "deepseek_vl_hybrid": _NOT_THERE,
    "exaone4_5": "unknown",
    "fuyu": _NOT_THERE,
    "glm46v": "unknown",
    "glmga": "unknown",
    "got_ocr2": _NOT_THERE,
    "idefics2": _NOT_THERE,
    "idefics3": _LLAMA,
    "internvl": _BY_SOURCE,
    "janus": _NOT_THERE,
    "lfm2_vl": "unknown",
    "lighton_ocr": "unknown",
    "llava": _BY_SOURCE,
    "llava_next": _BY_SOURCE,
    "llava_next_video": _BY_SOURCE,
    "llava_onevision": _BY_SOURCE,
    "minicpm_ocr": "unknown",
    "minicpmv4_6": "unknown",
    "minicpmv4_7": "unknown",
    "mistral3": _BY_SOURCE,
    "ovis2": _NOT_THERE,
    "pp_chart2table": _NOT_THERE,
    "qianfan_ocr": "unknown",
    "smolvlm": _LLAMA,
    "video_llama_3": _NOT_THERE,
    "video_llava": _NOT_THERE,
    "vipllava": _NOT_THERE,
}

# Classes that make a part of their own as wide as the decoder's FFN, by `text_config.intermediate_size`.
READS_FFN_WIDTH = ("idefics2",)
