"""Make the pocket base again: `python -m lynx_moe.pocket --work outputs/pocket` (hours on one core; resumes)."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import torch

from lynx_moe.pocket.recipe import Recipe, train

SEEING = (
    "colour", "shape", "size", "form", "beside", "background", "count", "exists", "larger", "further", "side", "where",
    "describe", "measure", "sizes", "places", "facts",
    "numbers",
)  # fmt: skip


def _synth(out: Path, split: str, tasks: tuple[str, ...], size: int, shard: int) -> None:
    subprocess.run(
        [sys.executable, "-m", "synth", "source=rendered", f"task=[{','.join(tasks)}]", f"size={size}",
         f"split={split}", f"out={out}", "seed=pocket", f"shard_size={shard}", "workers=2"],
        check=True,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("outputs/pocket"))
    parser.add_argument("--pictures", type=int, default=72_000)
    parser.add_argument("--steps", type=int, default=Recipe().steps)
    parser.add_argument("--threads", type=int, default=1, help="torch threads; leave 1 when anything else runs")
    parser.add_argument("--start", type=Path, help="go on from the weights and tokenizer in this folder")
    parser.add_argument("--warmup-steps", type=int, default=Recipe().warmup_steps)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    pictures, words = options.work / "pictures", options.work / "words"
    _synth(pictures, "val", SEEING, 1000, 1000)
    _synth(pictures, "train", SEEING, options.pictures, 2000)
    _synth(words, "train", ("words",), 20_000, 10_000)
    recipe = Recipe(steps=options.steps, warmup_steps=options.warmup_steps)
    print(train([pictures, words], options.work, recipe, pictures, options.start))


if __name__ == "__main__":
    main()
