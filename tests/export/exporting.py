"""What the export tests share: an adapter whose prompt gate opens for one of two prompts, and quick checks."""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from lynx_moe.adapter import fit_prompt_gate, set_gate
from lynx_moe.export import export, fresh
from lynx_moe.export.plan import ALWAYS_ON
from lynx_moe.export.verify import summed_up
from tests.adapter.speaking import adapted

OPEN_ROW, SHUT_ROW = 0, 1


def with_fitted_gate(vlm, inputs, **settings):
    """The adapted model; its fitted gate opens for row 0 of `inputs` and stays shut for row 1."""
    model = adapted(vlm, **{"prompt_gate": "auto", **settings})
    fit_prompt_gate(model, inputs["input_ids"].tolist(), [True, False])
    return model


def grounding_and_understanding(inputs):
    """Examples to compare on: both rows as one batch, and each alone."""
    rows = {"both": slice(None), "grounding": slice(0, 1), "understanding": slice(1, 2)}
    size = len(inputs["input_ids"])
    # Some processors stack the patches of all pictures along the first axis.
    per_row = {name: value.shape[0] // size for name, value in inputs.items()}
    return {
        case: {
            name: value[slice(*(None if i is None else i * per_row[name] for i in (part.start, part.stop)))]
            for name, value in inputs.items()
        }
        for case, part in rows.items()
    }


def compare_in_this_process(folder, device, timeout_seconds=0.0, *, base=None, asked=None):
    """The same comparison without the fresh process, which costs seconds: for all but one test of each route."""
    with TemporaryDirectory() as elsewhere:
        questions = "" if asked is None else str(asked.write(Path(elsewhere) / "questions.safetensors"))
        result = fresh.compare(str(folder), device, str(base or ""), questions)
    return summed_up(result, base) | {"loaded_without_lynx_moe": True}


def export_of(model, inputs, folder, **settings):
    """Routes without a prompt gate are told to ship it open, which a fitted one needs and others do not mind."""
    gate = {"gate": "on"} if settings.get("route") in ALWAYS_ON else {}
    return export(
        model, None, folder, examples=grounding_and_understanding(inputs), **{"new_tokens": 5, **gate, **settings}
    )


@torch.no_grad()
def logits(model, inputs, gate=None):
    if gate is None:
        return model(**inputs).logits
    with set_gate(model, gate):
        return model(**inputs).logits
