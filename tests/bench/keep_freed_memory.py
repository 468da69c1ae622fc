"""CPU time of a training step with and without glibc keeping freed memory: `python tests/bench/keep_freed_memory.py`.

Two processes in turn (A B A B ...), since the setting cannot be taken back; the ratio is of medians over all steps.
"""

import statistics
import subprocess
import sys

ROUNDS, STEPS = 3, 6

STEP = f"""
import sys, time
import torch
from lynx_moe.pocket.build import SIDE, build_model
from lynx_moe.training.memory import keep_freed_memory

class Words:
    pad_token_id, bos_token_id, eos_token_id = 0, 1, 2
    def __len__(self): return 700
    def convert_tokens_to_ids(self, token): return 3

if sys.argv[1] == "keep":
    assert keep_freed_memory()
torch.manual_seed(0)
model = build_model(Words()).train()
ids = torch.randint(4, 700, (32, 250))
ids[:, 2:66] = 3
pixels = torch.randn(32, 3, SIDE, SIDE)
for step in range({STEPS} + 2):
    began = time.process_time()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(input_ids=ids, pixel_values=pixels, labels=ids).loss
    loss.backward()
    model.zero_grad()
    if step > 1:
        print(time.process_time() - began)
"""


def main() -> None:
    seconds: dict[str, list[float]] = {"keep": [], "give_back": []}
    for _ in range(ROUNDS):
        for way, found in seconds.items():
            done = subprocess.run([sys.executable, "-c", STEP, way], check=True, capture_output=True, text=True)
            found += [float(line) for line in done.stdout.split()]
    for way, found in seconds.items():
        print(f"{way:10} median {statistics.median(found):.3f} s, {min(found):.3f} to {max(found):.3f}")
    print(f"ratio {statistics.median(seconds['give_back']) / statistics.median(seconds['keep']):.2f}")


if __name__ == "__main__":
    main()
