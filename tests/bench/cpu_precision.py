"""Seconds of a training step on a CPU in bfloat16 and in float32: `python tests/bench/cpu_precision.py`.

The pocket base with new experts, rows of another length at every step, as in training; the two in turn in one process
(A B A B ...). On a CPU with AMX or AVX512-BF16 the arithmetic itself is faster in bfloat16; oneDNN compiles a kernel
for every new matmul shape, and routing gives the experts new shapes at every step.
"""

import statistics
import time

import torch
from peft import get_peft_model

from lynx_moe import LynxConfig
from lynx_moe.adapter import set_gate
from lynx_moe.loading import load

STEPS, WARM_UP, ROWS, SHORTEST, LONGEST = 40, 5, 8, 120, 180
PICTURE_TOKENS = 64


def step(model, length: int, dtype: str) -> float:
    """Seconds of one forward and backward over rows of `length` tokens."""
    base = model.get_base_model().config
    ids = torch.randint(10, 400, (ROWS, length))
    ids[:, 2 : 2 + PICTURE_TOKENS] = base.image_token_id
    pixels = torch.randn(ROWS, 3, base.vision_config.image_size, base.vision_config.image_size)
    began = time.perf_counter()
    with set_gate(model, True), torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
        model(input_ids=ids, pixel_values=pixels, labels=ids).loss.backward()
    model.zero_grad()
    return time.perf_counter() - began


def main() -> None:
    torch.manual_seed(0)
    for experts, top_k in ((1, 1), (4, 2)):
        base = load("pkg://lynx_moe.pocket/weights", dtype="float32").model
        config = LynxConfig(num_experts=experts, top_k=top_k, layers=[2, 3, 4], prompt_gate="on")
        model = get_peft_model(base, config).train()
        seconds: dict[str, list[float]] = {"bfloat16": [], "float32": []}
        for number in range(STEPS + WARM_UP):
            length = int(torch.randint(SHORTEST, LONGEST, ()))
            for dtype, taken in seconds.items():
                taken.append(step(model, length, dtype))
                if number < WARM_UP:
                    taken.clear()
        print(f"{experts} experts, top {top_k}:")
        for dtype, taken in seconds.items():
            print(f"  {dtype:9} median {statistics.median(taken):.3f} s, {min(taken):.3f} to {max(taken):.3f}")
        ratio = statistics.median(seconds["bfloat16"]) / statistics.median(seconds["float32"])
        print(f"  bfloat16 / float32 {ratio:.2f}")


if __name__ == "__main__":
    main()
