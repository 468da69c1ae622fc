"""What a run's picture tokens still know of their pictures, side by side and in numbers:

    python -m lynx_moe.reconstruction_sheet outputs/reconstruction outputs/quickstart/data --out sheet.png

A row for each picture: as the model sees it; through the tokenizer and back, the best that can be told; told from its
own tokens' states; and told from another picture's, which is what the head knows of pictures in general.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from lynx_moe.data import Collator, SampleBuilder, load_records
from lynx_moe.errors import CheckpointError, RecordError
from lynx_moe.families.last_states import last_states
from lynx_moe.loading import Loaded, load
from lynx_moe.objectives.attached import attach_objectives, heads_of, put_heads, read_heads
from lynx_moe.objectives.reconstructed import reconstructed
from lynx_moe.objectives.reconstruction import Reconstruction
from lynx_moe.objectives.seen import Pictures
from lynx_moe.training.loss import forward_inputs
from lynx_moe.training.method import open_gate

GAP = 4  # pixels between pictures


def sheet(
    run: Path, data: Path, *, split: str = "validation", pictures: int = 8
) -> tuple[Image.Image, dict[str, float]]:
    """The sheet of some pictures of a folder of records, and the loss on them with their own states ("own") and with
    those of another of them ("another").

    Raises:
        CheckpointError: the run has no reconstruction head, or its tokenizer is another now.
        RecordError: there are not two pictures.
    """
    loaded = load(run)
    head = trained_head(loaded, run / "adapter")
    records = load_records(data, split)
    first = [group[0] for group in records.by_picture() if len(records.sizes(group[0])) == 1][:pictures]
    if len(first) < 2:
        raise RecordError(
            f"{len(first)} pictures of {data} ({split}) are to be told again",
            why="a picture is also told from the states of another one",
            fix="--pictures=2 or more, of records about one picture each",
        )
    maker = type(head).target_maker(head.settings)
    builder = SampleBuilder(loaded.processor, loaded.dialect, targets=[maker])
    batch = Collator(loaded.processor)([builder(records[position]) for position in first])
    with torch.no_grad(), open_gate(loaded.model), last_states(loaded.model.get_base_model()) as states:
        loaded.model(**forward_inputs(batch))
        seen = Pictures.of(states.over(batch["input_ids"]), batch, head.tokenizer.cell)
        lost = {"own": head.lost(seen).item(), "another": head.lost(seen.mixed_up()).item()}
    best = [
        head.picture(head.tokenizer.tokens(head.tokenizer.mean(head.known(each)), grid), grid).clamp(0, 1)
        for each, grid in zip(seen.pixels, seen.grids, strict=True)
    ]
    columns = [seen.pixels, best, reconstructed(head, seen), reconstructed(head, seen.mixed_up())]
    return pasted(list(zip(*columns, strict=True))), {name: value / len(first) for name, value in lost.items()}


def trained_head(loaded: Loaded, adapter: Path) -> Reconstruction:
    """The reconstruction head of a run, put beside its model.

    Raises:
        CheckpointError: there is none, or its tokenizer is another now.
    """
    state, settings = read_heads(adapter)
    if "reconstruction" not in settings:
        raise CheckpointError(
            f"{adapter} has no reconstruction head",
            why=f"the run's objectives are {', '.join(settings) or 'none'}",
            fix="train with +objective/extra=reconstruction",
        )
    attach_objectives(loaded.model, {"reconstruction": settings["reconstruction"]})
    put_heads(loaded.model, {name: value for name, value in state.items() if ".reconstruction." in name})
    head = heads_of(loaded.model)["reconstruction"]
    return head.requires_grad_(False).eval()


def pasted(rows: list[tuple[Tensor, ...]]) -> Image.Image:
    """Pictures (3, H, W) in 0..1, a row of them below the other."""
    wide = max(sum(each.shape[2] + GAP for each in row) for row in rows)
    high = sum(max(each.shape[1] for each in row) + GAP for row in rows)
    page, top = Image.new("RGB", (wide, high), "white"), 0
    for row in rows:
        left = 0
        for each in row:
            page.paste(Image.fromarray((each * 255).round().byte().permute(1, 2, 0).cpu().numpy()), (left, top))
            left += each.shape[2] + GAP
        top += max(each.shape[1] for each in row) + GAP
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run with a reconstruction head")
    parser.add_argument("data", type=Path, help="folder of records")
    parser.add_argument("--split", default="validation")
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("reconstructions.png"))
    options = parser.parse_args()
    page, lost = sheet(options.run, options.data, split=options.split, pictures=options.pictures)
    page.save(options.out)
    print(f"{options.out}: loss {lost['own']:.3f} from their own states, {lost['another']:.3f} from another picture's")


if __name__ == "__main__":
    main()
