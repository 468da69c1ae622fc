"""What the export tests share: an adapter whose prompt gate opens for one of two prompts, and quick checks."""

import torch

from lynx_moe.adapter import fit_prompt_gate, set_gate
from lynx_moe.export import export, fresh
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


def compare_in_this_process(folder, device, timeout_seconds=0.0):
    """The same comparison without the fresh process, which costs seconds: for all but one test of each route."""
    result = fresh.compare(str(folder), device)
    cases = result["cases"].values()
    return result | {
        "max_abs_logit_diff": max(case["max_abs_logit_diff"] for case in cases),
        "generation_equal": all(case["generation_equal"] for case in cases),
        "loaded_without_lynx_moe": True,
    }


def export_of(model, inputs, folder, **settings):
    return export(model, None, folder, examples=grounding_and_understanding(inputs), **{"new_tokens": 5, **settings})


@torch.no_grad()
def logits(model, inputs, gate=None):
    if gate is None:
        return model(**inputs).logits
    with set_gate(model, gate):
        return model(**inputs).logits
