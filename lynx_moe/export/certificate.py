"""The forget-free certificate: what was checked of an export, what came out, and what was not checked.

`certificate.json` carries the sha256 of its own canonical spelling, so any change shows. That is a seal and no
signature: it proves that nobody touched the file, not who wrote it. Who needs the latter signs the digest.
"""

from __future__ import annotations

import hashlib
import json
import math
from datetime import UTC, datetime
from pathlib import Path

import torch
import transformers

import lynx_moe
from lynx_moe.evaluation import compare
from lynx_moe.interval import paired_interval

SEALED, PAGE = "certificate.json", "certificate.html"
SIGNIFICANT = 0.05  # McNemar's p below which more losses than gains count as forgetting (our choice)


def make(manifest: dict, result: dict) -> dict:
    """The content of a certificate, sealed, from an export's manifest and what `verify` found."""
    reference = manifest.get("reference", {})
    outputs = _outputs(manifest, result)
    retention = _retention(result.get("evaluation"))
    content = {
        "kind": "lynx_moe forget-free certificate",
        "format": 1,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "made_with": {
            "lynx_moe": lynx_moe.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "base": {"sha256": manifest["base_sha256"], **manifest.get("base", {})},
        "adapter": manifest.get("adapter", {}),
        "export": {
            "route": manifest["route"],
            "host": manifest["host"],
            "tensors_sha256": _tensors_digest(manifest),
            "dtype": reference.get("dtype"),
        },
        "verified": not result["complaints"],
        "complaints": result["complaints"],
        "weights": _weights(result.get("base")),
        "live": _live(result, reference),
        "outputs": outputs,
        "retention": retention,
        "grounding": _grounding(result.get("evaluation")),
        "probe": result.get("probe"),
        "not_checked": _not_checked(manifest, result),
    }
    content["verdict"] = _verdict(content)
    return seal(content)


def seal(content: dict) -> dict:
    """`content` with the sha256 of its canonical JSON: sorted keys, no spaces, UTF-8, without the digest itself."""
    body = _plain({key: value for key, value in content.items() if key != "sha256"})
    return body | {"sha256": _digest(body)}


def write(folder: Path, content: dict) -> Path:
    """certificate.json and certificate.html in `folder`, which is made; where the page is."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in ((SEALED, _spelt(content)), (PAGE, page(content))):
        aside = folder / f".{name}"
        aside.write_text(text, encoding="utf-8")
        aside.replace(folder / name)
    return folder / PAGE


def page(content: dict) -> str:
    """The certificate for people: one HTML page that loads nothing from anywhere."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("lynx_moe.export"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"percent": lambda value: "–" if value is None else f"{100 * value:.1f}%"}
    return made.get_template("certificate.html.j2").render(c=content)


def complaint(folder: Path) -> str | None:
    """What is wrong with the seal of the certificate in `folder`; None when it holds, or when there is none."""
    path = folder / SEALED
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        held = content["sha256"] == _digest({k: v for k, v in content.items() if k != "sha256"})
        if held and path.read_text(encoding="utf-8") == _spelt(content):
            return None
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    return f"{SEALED} was changed: it does not fit its own sha256"


def broken_promises(gates: dict, reference: dict) -> list[str]:
    """Which rows should be the base's bit for bit and are not: all with the gate off, those of a shut gate on auto."""
    found = []
    for gate, rows in (("off", lambda case, n: range(n)), ("auto", lambda case, n: _shut(reference, case))):
        for case, of in gates.get(gate, {}).items():
            wrong = [row for row in rows(case, len(of["rows_equal"])) if not of["rows_equal"][row]]
            if wrong:
                found.append(f"with the gate {gate}, row {wrong[0]} of {case!r} is not the base's bit for bit")
    return found


def _shut(reference: dict, case: str) -> list[int]:
    return [row for row, shut in enumerate(reference.get("shut", {}).get(case, ())) if shut]


def _outputs(manifest: dict, result: dict) -> list[dict]:
    """One row per gate setting: how many prompts gave the base's logits bit for bit, and how far any other was."""
    reference, gates = manifest.get("reference", {}), result.get("gates", {})
    rows = []
    off = result.get("base", {}).get("adapter_off") or {}
    if off:
        rows.append(
            _row("live model, adapter off", "all, recorded at export", sum(off.values()), len(off), None, False)
        )
    for gate, cases in gates.items():
        if gate != "auto":
            every = [equal for of in cases.values() for equal in of["rows_equal"]]
            furthest = max(of["max_abs_logit_diff"] for of in cases.values())
            rows.append(_row(f"export, gate {gate}", "all", sum(every), len(every), furthest, gate == "off"))
            continue
        shut = [of["rows_equal"][row] for case, of in cases.items() for row in _shut(reference, case)]
        open_ = [
            equal
            for case, of in cases.items()
            for row, equal in enumerate(of["rows_equal"])
            if row not in _shut(reference, case)
        ]
        rows.append(_row("export, gate auto", "gate shut: understanding", sum(shut), len(shut), None, True))
        rows.append(_row("export, gate auto", "gate open: grounding", sum(open_), len(open_), None, False))
    return rows


def _row(what: str, prompts: str, equal: int, n: int, furthest: float | None, must: bool) -> dict:
    return {
        "setting": what,
        "prompts": prompts,
        "bitwise_equal": equal,
        "n": n,
        "max_abs_logit_diff": furthest,
        "must_be_equal": must,
    }


def _weights(base: dict | None) -> dict | None:
    if base is None or base.get("differs"):
        return None
    return {
        "identical": len(base["identical"]),
        "undone_exactly": len(base.get("undone", ())),
        "within_rounding": len(base.get("rounded", {})),
        "largest_rounding": max(base.get("rounded", {}).values(), default=0.0),
        "changed": sorted(base.get("changed", ())),
    }


def _live(result: dict, reference: dict) -> dict | None:
    if "cases" not in result:
        return None
    return {
        "cases": result["cases"],
        "max_abs_logit_diff": result["max_abs_logit_diff"],
        "largest_logit": reference["largest_logit"],
        "generation_equal": result["generation_equal"],
        "loaded_without_lynx_moe": result["loaded_without_lynx_moe"],
    }


def _retention(evaluation: dict | None) -> dict | None:
    """Understanding answers pair by pair, with every flip; None where there are none to compare."""
    if not evaluation or not evaluation["before"] or not evaluation["after"]["retention"]:
        return None
    before, after = evaluation["before"], evaluation["after"]
    change = compare(before, after)
    tasks = {
        task: {"n": of["n"], "before": of["accuracy"], "after": after["retention"]["by_task"][task]["accuracy"]}
        for task, of in before["retention"]["by_task"].items()
    }
    return {
        "before_is": evaluation["before_is"],
        "before": before["retention"]["accuracy"],
        "after": after["retention"]["accuracy"],
        "interval": list(paired_interval(change["lost"], change["won"], change["n"])),
        "by_task": tasks,
        **change,
    }


def _grounding(evaluation: dict | None) -> dict | None:
    if not evaluation or not evaluation["after"]["grounding"]:
        return None
    before = (evaluation["before"] or {}).get("grounding") or {}
    after = evaluation["after"]["grounding"]
    return {"n": after["n"], "before": before.get("acc50"), "after": after["acc50"]}


def _not_checked(manifest: dict, result: dict) -> list[dict]:
    """What this certificate says nothing about, and why."""
    missing = []

    def add(what: str, why: str) -> None:
        missing.append({"what": what, "why": why})

    if "base" not in result:
        add("base weights, and outputs against the base's", "no base was given")
    if "cases" not in result:
        add("logits, generation and boxes", "an adapter answers only on its base, and none was given")
    elif manifest["route"] == "adapter":
        add("loading without lynx_moe and peft", "an adapter needs both")
    if "gates" in result and "off" not in result["gates"]:
        add("the gate shut", f"route {manifest['route']} has its gate always on")
    elif "gates" in result and "auto" not in result["gates"]:
        add("the gate on auto", "it was never fitted")
    if "probe" not in result and "cases" in result:
        add("boxes on rendered scenes", "the export was made without the spatial probe")
    evaluation = result.get("evaluation")
    if evaluation is None:
        add("retention on held-out questions", "no records were given")
    elif evaluation["before"] is None:
        add("retention on held-out questions", "no base was given to answer before")
    elif evaluation["after"]["retention"] is None:
        add("retention on held-out questions", "the records hold no understanding questions")
    add("answers longer than those asked for, sampling, other devices and number types", "checked greedily, as stated")
    add("skills that no record here asks about", "a measurement speaks only of what it measured")
    return missing


def _verdict(content: dict) -> dict:
    """`bitwise` and `measured` are True, False, or None where nothing can be said; `words` is the headline."""
    must = [row for row in content["outputs"] if row["must_be_equal"] and row["n"]]
    bitwise = all(row["bitwise_equal"] == row["n"] for row in must) if must else None
    kept = content["retention"]
    measured = None
    if kept is not None:
        measured = not (kept["lost"] > kept["won"] and kept["mcnemar_p"] < SIGNIFICANT)
    flips = f"{kept['lost']} lost and {kept['won']} won of {kept['n']} held-out questions" if kept else ""
    if content["complaints"]:
        words = "Not verified: this is not what was promised."
    elif bitwise and measured is not False:
        words = "With its gate shut, this model is the base bit for bit"
        words += f"; as shipped, {flips}." if kept else "."
    elif measured is False:
        words = f"Something was forgotten: as shipped, {flips}."
    elif measured:
        words = f"No forgetting was found: {flips}. The gate is always on, so this is a measurement and no proof."
    elif content["weights"] is not None:
        words = "The base's weights are all in it. What its answers retained was not measured."
    else:
        words = "It is what was exported. What it retained of its base was not checked."
    return {"bitwise": bitwise, "measured": measured, "words": words}


def _tensors_digest(manifest: dict) -> str | None:
    if "tensors" not in manifest:
        return None
    lines = "".join(f"{name} {entry['sha256']}\n" for name, entry in sorted(manifest["tensors"].items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def _plain(value):
    """What JSON can hold: keys are words, and numbers that are none become words."""
    if isinstance(value, dict):
        return {str(key): _plain(of) for key, of in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(of) for of in (sorted(value) if isinstance(value, set) else value)]
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return value if value is None or isinstance(value, str | int | bool) else str(value)


def _digest(body: dict) -> str:
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _spelt(content: dict) -> str:
    return json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
