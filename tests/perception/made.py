"""A folder of arranged pictures as synth writes it, and a tiny base."""

import io
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from synth.__main__ import main
from tests.tiny import tiny_llava_with_processor


def arranged(folder: Path, train: int = 8, validation: int = 12) -> str:
    for split, size in (("train", train), ("validation", validation)):
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            main(["source=arranged", "task=side", f"size={size}", f"split={split}", f"out={folder}"])
    return str(folder)


def base(folder: Path) -> str:
    model, processor = tiny_llava_with_processor()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)
