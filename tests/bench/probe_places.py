"""How well a base knows where things are, and at which words of an answer: `python tests/bench/probe_places.py DATA`.

A ridge regression from the hidden state (each layer in turn) to the box of the thing asked for, fitted on three
quarters of the find-one questions in DATA's validation split and scored on the rest: the share of boxes with an IoU of
at least 0.5 at the best layer. DATA is a folder that synth wrote, for example outputs/quickstart/data.
"""

import sys

import torch

from lynx_moe.data import load_records
from lynx_moe.grounding.box import iou
from lynx_moe.loading import load

BASE = "pkg://lynx_moe.pocket/weights"
SO_FAR = ("", "The {} is at [", "The {} is at [12, 3")  # what of the answer is written when the state is read
RIDGE, BATCH, FITTED = 30.0, 32, 0.75


@torch.no_grad()
def states(loaded, records, so_far: str) -> torch.Tensor:
    """(N, layers, D): hidden states at the last token, after the question and the beginning of an answer."""
    processor, found = loaded.processor, []
    processor.tokenizer.padding_side = "left"
    for start in range(0, len(records), BATCH):
        some = [records[k] for k in range(start, min(start + BATCH, len(records)))]
        turns = [[{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": r.question}]}] for r in some]
        asked = [processor.apply_chat_template(turn, add_generation_prompt=True) for turn in turns]
        texts = [f"{text} {so_far.format(r.phrase)}".rstrip() for text, r in zip(asked, some, strict=True)]
        batch = processor(
            images=[[r.image()] for r in some], text=texts, padding=True, add_special_tokens=False, return_tensors="pt"
        )
        hidden = loaded.model(**batch, output_hidden_states=True).hidden_states
        found.append(torch.stack([h[:, -1].float() for h in hidden], dim=1))
    return torch.cat(found)


def found_boxes(x_ND: torch.Tensor, box_N4: torch.Tensor) -> float:
    """The share of the boxes after the first `FITTED` that a ridge regression on those finds."""
    n = int(FITTED * len(x_ND))
    x_ND = (x_ND - x_ND[:n].mean(0)) / (x_ND[:n].std(0) + 1e-6)
    x_ND = torch.cat([x_ND, torch.ones(len(x_ND), 1)], dim=1)
    gram_DD = x_ND[:n].T @ x_ND[:n] + RIDGE * torch.eye(x_ND.shape[1])
    guess_N4 = x_ND[n:] @ torch.linalg.solve(gram_DD, x_ND[:n].T @ box_N4[:n])
    hits = [iou(a, b) >= 0.5 for a, b in zip(guess_N4.tolist(), box_N4[n:].tolist(), strict=True)]
    return sum(hits) / len(hits)


def main(folder: str, base: str = BASE) -> None:
    loaded = load(base)
    records = load_records(folder, "validation", tasks=["find_one"])
    box_N4 = torch.tensor([[v / s for v, s in zip(r.boxes[0], r.size * 2, strict=True)] for r in records])
    print(f"{len(records)} questions, {len(records) - int(FITTED * len(records))} of them scored")
    for so_far in SO_FAR:
        x_NLD = states(loaded, records, so_far)
        shares = [found_boxes(x_NLD[:, layer], box_N4) for layer in range(x_NLD.shape[1])]
        best = max(range(len(shares)), key=shares.__getitem__)
        print(f"after {so_far!r:24} {shares[best]:.2f} at layer {best}; all layers {[round(s, 2) for s in shares]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
