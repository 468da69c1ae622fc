"""The part of the command line that is about evaluation: `lynx-moe evaluate`."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lynx_moe.errors import ConfigError
from lynx_moe.export_cli import at_least_one

if TYPE_CHECKING:
    from lynx_moe.evaluation import Temperature
    from lynx_moe.evaluation.protocol_run import Done, Job, Opened, Stage
    from lynx_moe.evaluation.protocols import Protocol
    from lynx_moe.loading import Loaded

# Options that mean something for one way of evaluating only; given for the other they are refused, not ignored.
OF_DATA = ("split", "sheet")
OF_PROTOCOLS = (
    "out", "scorer", "constrain", "max_new_tokens", "corrupt", "levels", "over_checkpoints", "restart",
    "samples", "calibration", "fit_calibration",
)  # fmt: skip
OF_MODELS = (
    "data", "protocols", "against", "gate", "limit", "batch_size", "dialect", "device", "trust_remote_code",
    *OF_DATA, *OF_PROTOCOLS,
)  # fmt: skip
SPLIT, BATCH_SIZE = "val", 64


def add_command(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds the command by `add(name, function, text)`, which returns its parser."""
    ask = add("evaluate", run_evaluate, "what a base, a run or an export can do, on records or on benchmarks")
    ask.add_argument("path", nargs="?", help="a run folder, an export, an adapter, or a base VLM")
    ask.add_argument(
        "--protocols", nargs="+", metavar="NAME=FOLDER[,key=value...]",
        help="benchmarks in their own files, and their settings: refcoco=FOLDER,split=testA (no commas in FOLDER)",
    )  # fmt: skip
    ask.add_argument("--out", metavar="FOLDER", help="of protocols: rows, numbers and page; a killed run goes on there")
    ask.add_argument("--from", dest="again", metavar="FOLDER", help="make the numbers and the page there again")
    ask.add_argument("--data", metavar="FOLDER", help="instead of protocols: records, as python -m synth writes them")
    ask.add_argument("--split", help=f"which split of --data (default {SPLIT})")
    ask.add_argument("--sheet", metavar="PNG", help="draw some of the answers to --data on a contact sheet")
    ask.add_argument("--gate", choices=("auto", "on", "off"), help="prompt gate of a run or an adapter (default auto)")
    ask.add_argument("--against", metavar="PATH", help="another model, measured first and compared pair by pair")
    ask.add_argument("--limit", type=at_least_one, help="ask only this many questions, drawn the same way every time")
    ask.add_argument("--batch-size", type=at_least_one, help=f"prompts per forward (default {BATCH_SIZE})")
    ask.add_argument("--max-new-tokens", type=at_least_one, help="cut answers there (default: as the protocol says)")
    ask.add_argument("--scorer", metavar="NAME[,key=value...]", help="how texts are scored: vqascore, likelihood, ...")
    ask.add_argument("--constrain", action="store_true", default=None, help="let only well-formed boxes be written")
    draws = "a box's confidence: the share of so many drawn answers that have it too (default: its tokens' own)"
    ask.add_argument("--samples", type=at_least_one, metavar="N", help=draws)
    ask.add_argument("--calibration", metavar="FILE", help="correct confidences by this temperature")
    fitted = "write the temperature that makes this run's confidences right; measure with it on other pictures"
    ask.add_argument("--fit-calibration", metavar="FILE", help=fitted)
    ask.add_argument(
        "--corrupt", type=listed, help="ask about changed pictures too: light,blur,noise,jpeg,viewpoint,crop"
    )
    ask.add_argument("--levels", type=levels, help="how strongly, 1 to 5 (default 1,2,3,4,5)")
    checkpoints = "also ask every checkpoint that a run kept"
    ask.add_argument("--over-checkpoints", action="store_true", default=None, help=checkpoints)
    ask.add_argument("--restart", action="store_true", default=None, help="throw away what --out holds of earlier runs")
    ask.add_argument("--device", help="where the model is put (default: the first GPU, else cpu)")
    ask.add_argument("--dialect", help="how boxes are written (default: the run's own, else the family's)")
    code = "allow an export to run its modelling file"
    ask.add_argument("--trust-remote-code", action="store_true", default=None, help=code)


def listed(text: str) -> list[str]:
    parts = [part for part in text.split(",") if part]
    if not parts:
        raise argparse.ArgumentTypeError(f"{text!r} names nothing")
    return parts


def levels(text: str) -> list[int]:
    return [int(part) for part in listed(text)]


def run_evaluate(given: argparse.Namespace) -> dict:
    if given.again:
        refuse(given, ("path", *OF_MODELS), "--from")
        return make_again(Path(given.again))
    if not given.path:
        raise ConfigError("no model to evaluate", why="none was named", fix="lynx-moe evaluate MODEL ...")
    if bool(given.data) == bool(given.protocols):
        raise ConfigError(
            f"{'two things' if given.data else 'nothing'} to evaluate on",
            why="--protocols and --data are two ways to say what is asked",
            fix="--protocols NAME=FOLDER --out OUT; or --data FOLDER for records alone",
        )
    if given.data:
        refuse(given, OF_PROTOCOLS, "--data")
        return on_records(given)
    refuse(given, OF_DATA, "--protocols")
    return on_protocols(given)


def refuse(given: argparse.Namespace, names: tuple[str, ...], beside: str) -> None:
    for name in names:
        if getattr(given, name) is not None:
            shown = name if name == "path" else f"--{name.replace('_', '-')}"
            raise ConfigError(
                f"{shown} means nothing beside {beside}",
                why="it would be ignored",
                fix=f"leave {shown} or {beside} out",
            )


def on_records(given: argparse.Namespace) -> dict:
    from lynx_moe.data import load_records
    from lynx_moe.evaluation import compare, evaluate, evaluation_sheet, print_report

    records = load_records(given.data, given.split or SPLIT, limit=given.limit)
    size, gate = given.batch_size or BATCH_SIZE, given.gate or "auto"
    before = None
    if given.against:
        other = opened(given, given.against)
        before = evaluate(other.model, other.processor, records, other.dialect, size)
        del other
    loaded = opened(given, given.path)
    with loaded.gate(gate):
        result = evaluate(loaded.model, loaded.processor, records, loaded.dialect, size)
    print_report(before, result)
    if given.sheet:
        print(f"answers drawn on {evaluation_sheet(result, records, given.sheet)}")
    found = {"ok": True, "path": given.path, "gate": gate, **result}
    if before is not None:
        found |= {"against": before, "change": compare(before, result)}
    return found


def on_protocols(given: argparse.Namespace) -> dict:
    from lynx_moe.evaluation.named import parsed_protocols
    from lynx_moe.evaluation.protocol_run import run_protocols

    if not given.out:
        raise ConfigError("no folder to write", why="--out is missing", fix="add --out FOLDER")
    if given.levels and not given.corrupt:
        raise ConfigError("--levels of nothing", why="they are strengths of --corrupt", fix="add --corrupt blur,noise")
    if given.corrupt or given.over_checkpoints:
        from lynx_moe.evaluation.curves import require_drawing

        require_drawing()
    protocols = dict(parsed_protocols(given.protocols))
    told: dict[str, dict] = {"dialects": {}, "scorers": {}}
    stages = list(stages_of(given, protocols, told))
    settings = {
        "batch_size": given.batch_size or BATCH_SIZE,
        "max_new_tokens": given.max_new_tokens,
        "scorer": given.scorer,
        "constrain": bool(given.constrain),
        "samples": given.samples or 0,
        "calibration": calibration.value if (calibration := calibration_of(given)) else None,
    }
    out = Path(given.out)
    done = run_protocols(out, stages, settings=settings, limit=given.limit, restart=bool(given.restart))
    about = {
        "model": given.path,
        "against": given.against,
        "gate": given.gate or "auto",
        "dialect": told["dialects"]["after"],
        "scorer": given.scorer,
        **told,
        "settings": settings | {"limit": given.limit},
    }
    found = finish(out, done, about)
    if given.scorer and not any(row.scores for rows in done.rows.values() for row in rows):
        print(f"note: nothing here is scored, so --scorer {given.scorer} had no use")
    if given.fit_calibration:
        print(fit_calibration(done, Path(given.fit_calibration)))
    return found


def calibration_of(given: argparse.Namespace) -> Temperature | None:
    from lynx_moe.evaluation import Temperature

    if given.calibration and given.fit_calibration:
        raise ConfigError(
            "--calibration and --fit-calibration together",
            why="a temperature is fitted to confidences as the model gives them",
            fix="fit on one set of pictures, then measure with --calibration on another",
        )
    return Temperature.load(given.calibration) if given.calibration else None


def fit_calibration(done: Done, path: Path) -> str:
    """Fits on the plain rows of the model itself, and says what came of it."""
    from lynx_moe.evaluation import Temperature
    from lynx_moe.evaluation.protocol_run import AFTER
    from lynx_moe.evaluation.summary import sure_and_right

    rows = [row for key, found in done.rows.items() if (key.side, key.variant) == (AFTER, "") for row in found]
    sure, right = sure_and_right(rows)
    if not sure:
        raise ConfigError(
            "no confidence to fit a temperature on",
            why="no answer had a box whose overlap with a true one is known",
            fix="fit on a protocol that asks for one box, such as refcoco or records",
        )
    temperature = Temperature.fit(sure, right)
    temperature.save(path)
    return f"temperature {temperature.value:.3f}, fitted on {len(sure)} boxes: {path}"


def make_again(out: Path) -> dict:
    from lynx_moe.evaluation.protocol_run import done_again

    done, content = done_again(out)
    unknown = content["unknown_rows"]
    if unknown:
        print(f"{unknown} rows are of protocols that the run did not ask and count for nothing")
    names = ("model", "against", "gate", "dialect", "scorer", "dialects", "scorers", "settings")
    return finish(out, done, {name: content[name] for name in names}) | {"unknown_rows": unknown}


def finish(out: Path, done: Done, about: dict[str, Any]) -> dict:
    """Numbers from rows: results.json, the page, curves, and the table in the terminal."""
    from lynx_moe.evaluation.curves import STEP, curves_of, draw
    from lynx_moe.evaluation.page import page, page_path
    from lynx_moe.evaluation.protocol_run import RESULTS, results_of
    from lynx_moe.evaluation.table import print_results
    from lynx_moe.whole import write_bytes, write_json

    content = about | results_of(done)
    content["curves"] = curves = curves_of(content["results"], content["under_change"])
    steps = [curve for curve in curves if curve["along"] == STEP]
    changes = [curve for curve in curves if curve["along"] != STEP]
    pictures = {}
    if changes:
        pictures["Under changed pictures"] = draw(changes, "Under changed pictures", "level of the change; 0: none")
        write_bytes(out / "robustness.png", pictures["Under changed pictures"])
    if steps:
        pictures["Over checkpoints"] = draw(steps, "Over checkpoints", "training step")
        write_bytes(out / "dynamics.png", pictures["Over checkpoints"])
    write_json(out / RESULTS, json.dumps(content, indent=2) + "\n")
    write_bytes(page_path(out), page(content, done, pictures))
    print_results(content)
    print(page_path(out))
    return {"ok": True, "out": str(out), **content}


def stages_of(given: argparse.Namespace, protocols: dict[str, Protocol], told: dict[str, dict]) -> Iterator[Stage]:
    """What is asked of whom, in order: the other model, the model, its checkpoints."""
    from lynx_moe.evaluation.curves import STEP, variant_of
    from lynx_moe.evaluation.protocol_run import AFTER, BEFORE, Job, Stage

    jobs = [Job(label, protocol) for label, protocol in protocols.items()]
    jobs += list(changed_jobs(given, protocols))
    places = any(protocol.boxes_in for protocol in protocols.values())

    def opens(side: str, path: str, gate: str, checkpoint: Path | None = None):
        return lambda: asked(given, path, gate, places, side, told, checkpoint)

    if given.against:
        yield Stage(BEFORE, jobs, opens(BEFORE, given.against, "auto"))
    yield Stage(AFTER, jobs, opens(AFTER, given.path, given.gate or "auto"))
    for step, checkpoint in kept_checkpoints(given):
        over = [Job(label, protocol, variant_of(STEP, step)) for label, protocol in protocols.items()]
        yield Stage(AFTER, over, opens(AFTER, given.path, given.gate or "auto", checkpoint), variant_of(STEP, step))


def changed_jobs(given: argparse.Namespace, protocols: dict[str, Protocol]) -> Iterator[Job]:
    from lynx_moe.evaluation.curves import variant_of
    from lynx_moe.evaluation.picture_changes import LEVELS
    from lynx_moe.evaluation.protocol_run import Job
    from lynx_moe.evaluation.robustness import Changed

    for change in given.corrupt or ():
        for level in given.levels or LEVELS:
            for label, protocol in protocols.items():
                yield Job(label, Changed(protocol, change, level, given.limit), variant_of(change, level))


def kept_checkpoints(given: argparse.Namespace) -> list[tuple[int, Path]]:
    if not given.over_checkpoints:
        return []
    from lynx_moe.training.checkpoints import checkpoints_in

    found = checkpoints_in(Path(given.path) / "checkpoints")
    if not found:
        raise ConfigError(
            f"no checkpoints in {given.path}",
            why="only a run's folder has them, and only those that trainer.keep left",
            fix="give a run folder, or train with a larger trainer.keep",
        )
    return sorted(found.items())


@contextmanager
def asked(
    given: argparse.Namespace,
    path: str,
    gate: str,
    places: bool,
    side: str,
    told: dict[str, dict],
    checkpoint: Path | None,
) -> Iterator[Opened]:
    """The model at `path`, open for asking."""
    from lynx_moe.evaluation.asking import Asker
    from lynx_moe.evaluation.protocol_run import Opened, processor_digest, settings_digest
    from lynx_moe.training.hashing import hash_base

    loaded = own_dialect(given, opened(given, path, checkpoint), places)
    told["dialects"].setdefault(side, loaded.dialect.name)
    scorer = scorer_of(given, loaded)
    if scorer is not None:
        told["scorers"].setdefault(side, scorer.notes)
    with loaded.gate(gate):
        asker = Asker(
            loaded.model,
            loaded.processor,
            loaded.dialect,
            scorer=scorer,
            batch_size=given.batch_size or BATCH_SIZE,
            max_new_tokens=given.max_new_tokens,
            constrain=bool(given.constrain),
            samples=given.samples or 0,
            calibration=calibration_of(given),
        )
        identity = {
            "weights": hash_base(loaded.model).digest,
            "settings": settings_digest(loaded.model),
            "processor": processor_digest(loaded.processor),
            "dialect": loaded.dialect.name,
            "gate": gate,
            "scorer": None if scorer is None else scorer.notes,
        }
        yield Opened(asker, identity)


def opened(given: argparse.Namespace, path: str, checkpoint: Path | None = None) -> Loaded:
    import torch

    from lynx_moe.loading import load

    trusted = bool(given.trust_remote_code)
    loaded = load(path, dialect=given.dialect, trust_remote_code=trusted, checkpoint=checkpoint)
    loaded.model.to(torch.device(given.device or ("cuda" if torch.cuda.is_available() else "cpu")))
    return loaded


def own_dialect(given: argparse.Namespace, loaded: Loaded, places: bool) -> Loaded:
    """A plain base is read in the words that its family was pretrained with, whatever we train with ourselves.

    Raises:
        ConfigError: places are asked for, and nothing says how this family writes them.
    """
    from lynx_moe.families.dialects import DIALECTS, get_dialect

    if given.dialect or loaded.kind != "base":
        return loaded
    family = loaded.model.config.model_type
    known = [name for name in DIALECTS if family in DIALECTS.get(name).families]
    if known:
        return dataclasses.replace(loaded, dialect=get_dialect(known[0], loaded.processor, loaded.dialect.mask_word))
    if places:
        raise ConfigError(
            f"no dialect is known for {family!r}, the family of this model",
            why="boxes cannot be read without knowing how it writes them, and they are never guessed",
            fix=f"--dialect, one of {', '.join(DIALECTS)} (percent is what training here uses unless told); or add the "
            "family's own as one file in lynx_moe/families/dialects, as docs/architecture.md says",
        )
    return loaded


def scorer_of(given: argparse.Namespace, loaded: Loaded):
    if given.scorer is None:
        return None
    from lynx_moe.evaluation.named import pair, typed
    from lynx_moe.evaluation.scoring import SCORERS, make_scorer

    name, *rest = given.scorer.split(",")
    taken = inspect.signature(SCORERS.get(name).__init__).parameters
    options = {}
    for part in rest:
        option, value = pair(part, given.scorer)
        # A name that it has not is refused where it is made, with the nearest one.
        wanted = str(taken[option].annotation) if option in taken else "str"
        options[option] = typed(wanted, value, f"{option} of the scorer {name}")
    learned = SCORERS.get(name).learned(loaded.objectives)
    return make_scorer(name, loaded.model, loaded.processor, **{**learned, **options})
