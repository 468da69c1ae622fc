"""The command line: `lynx-moe quickstart | doctor | evaluate | report | perception | export | unexport | verify |
families | bench`.

Each takes `--json FILE`. Nothing heavy is imported until a command runs, so `--help` answers at once.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from pathlib import Path

from lynx_moe import evaluate_cli, export_cli
from lynx_moe.errors import LynxError
from lynx_moe.export_cli import at_least_one


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns the exit status: 0 only when what it was asked for is true.

    A mistake that somebody can act on is printed as what / why / fix, without a traceback, and also goes into `--json`.
    """
    given = build_parser().parse_args(arguments)
    given.typed = list(sys.argv[1:] if arguments is None else arguments)
    quieten()
    try:
        result = given.command(given)
    except LynxError as problem:
        print(f"lynx-moe: {problem}", file=sys.stderr)
        error = {"type": type(problem).__name__, "what": problem.message, "why": problem.why, "fix": problem.fix}
        result = {"ok": False, "error": error}
    except KeyboardInterrupt:
        print("lynx-moe: stopped", file=sys.stderr)
        return 130
    if given.json:
        from lynx_moe.whole import write_json

        path = Path(given.json)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, json.dumps(result, indent=2, default=str) + "\n")
    return 0 if result["ok"] else 1


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; `parse_args(...).command` is the function that runs."""
    parser = argparse.ArgumentParser(
        prog="lynx-moe", description="Teach a vision-language model to point, and prove that it forgot nothing."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, function, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--json", metavar="FILE", help="also write the result there, machine-readable")
        command.set_defaults(command=function)
        return command

    quick = add("quickstart", run_quickstart, "make data, train, measure and export the embedded base")
    quick.add_argument("overrides", nargs="*", metavar="key=value", help="settings of the training, as for train.py")
    quick.add_argument("--out", default="outputs/quickstart", help="folder for everything (default %(default)s)")
    quick.add_argument("--limit", type=at_least_one, default=600, help="questions per evaluation (default %(default)s)")
    quick.add_argument("--overwrite", action="store_true", help="replace the results of an earlier quickstart")

    look = add("doctor", run_doctor, "look at what a training would learn, before it starts")
    look.add_argument("overrides", nargs="*", metavar="key=value", help="settings of the training, as for train.py")
    look.add_argument("--out", default="outputs/doctor", help="folder for sheet.png and doctor.json (%(default)s)")
    look.add_argument("--pictures", type=at_least_one, default=16, help="targets to draw (default %(default)s)")
    look.add_argument("--limit", type=at_least_one, default=2000, help="records to look at (default %(default)s)")
    look.add_argument("--no-steps", action="store_true", help="leave out the three training steps")

    evaluate_cli.add_command(add)

    page = add("report", run_report, "one page over many runs: grounding against retention, and which run to take")
    page.add_argument("folders", nargs="+", metavar="FOLDER", help="output folders of sweeps or of single runs")
    page.add_argument("--tolerance", type=float, default=1.0, metavar="POINTS", help="retention that may be lost (1.0)")
    page.add_argument("--out", metavar="FOLDER", help="where to write (default: report/ in the first folder)")

    seen = add("perception", run_perception, "one frozen encoder, many readers: who sees how two things lie")
    seen.add_argument("--base", default="pkg://lynx_moe.pocket/weights", help="a base VLM (%(default)s)")
    seen.add_argument("--data", default="outputs/perception/data", help="made when missing (default %(default)s)")
    seen.add_argument("--out", default="outputs/perception", help="folder of the table (default %(default)s)")
    seen.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default %(default)s")
    seen.add_argument("--epochs", type=at_least_one, default=2, help="over the training pairs (default %(default)s)")
    seen.add_argument("--limit", type=at_least_one, metavar="SETS", help="sets of four pictures to learn from (all)")
    seen.add_argument("--measured", type=at_least_one, metavar="SETS", help="sets to measure on (default all)")
    seen.add_argument("--layers", default="upper_half", help="of the new experts (default %(default)s)")

    export_cli.add_commands(add)

    found = add("families", run_families, "where the blocks would go in a model; reads its config, not its weights")
    found.add_argument("path", nargs="?", help="a folder, a Hub name, or pkg://package/folder; none: every family")
    found.add_argument("--layers", default="every_other", help="every_other, all, upper_half, or numbers: 0,2,5")
    found.add_argument("--markdown", metavar="FILE", help="without a path: write the table of every family there")

    bench = commands.add_parser("bench", help="how fast we are here, beside what", description=BENCH)
    commands = bench.add_subparsers(required=True, metavar="WHAT")
    block = add(
        "block", run_bench_block, "new experts against a dense FFN of the same FLOPs, and transformers' experts"
    )
    block.add_argument("--tokens", type=at_least_one, nargs="+", default=[1, 64, 1024, 4096], help="%(default)s")
    block.add_argument("--experts", type=at_least_one, nargs="+", default=[2, 4, 8], help="default %(default)s")
    types = ("float32", "bfloat16", "float16")
    block.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], choices=types, help="%(default)s")
    block.add_argument("--width", type=at_least_one, default=4096, help="model's width (default %(default)s, of a 7B)")
    block.add_argument("--ffn-width", type=at_least_one, default=11008, help="of all experts together (%(default)s)")
    step = add("step", run_bench_step, "a whole training step against PEFT's LoRA with as many parameters")
    step.add_argument("path", nargs="?", default="pkg://lynx_moe.pocket/weights", help="a base VLM (%(default)s)")
    step.add_argument("--layers", nargs="+", default=["every_other", "upper_half"], help="default %(default)s")
    step.add_argument("--rows", type=at_least_one, default=8, help="rows of a batch (default %(default)s)")
    precisions = ("auto", "bf16", "fp32")
    step.add_argument("--precision", default="auto", choices=precisions, help="as in training (default %(default)s)")
    cache = add("cache", run_bench_cache, "training with the frozen-prefix cache against training without it")
    cache.add_argument("path", nargs="?", default="pkg://lynx_moe.pocket/weights", help="a base VLM (%(default)s)")
    cache.add_argument("--mode", default="decoder", choices=("vision", "decoder"), help="default %(default)s")
    cache.add_argument("--layers", default="upper_half", help="every_other, all, upper_half (default %(default)s)")
    cache.add_argument("--records", type=at_least_one, default=512, help="drawn by synth (default %(default)s)")
    cache.add_argument("--batch-size", type=at_least_one, default=32, help="rows of a batch (default %(default)s)")
    cache.add_argument("--retention-kl", type=float, default=1.0, help="as objective.retention_kl (%(default)s)")
    cache.add_argument("--rounds", type=at_least_one, default=5, help="epochs of each way (default %(default)s)")
    cache.add_argument("--strengths", type=int, default=8, help="runs of the sweep; 0: none (default %(default)s)")
    cache.add_argument("--epochs", type=float, default=3.0, help="of each run of the sweep (default %(default)s)")
    cache.add_argument("--threads", type=at_least_one, help="CPU threads (default: torch's own choice)")
    exported = add("export", run_bench_export, "exported models against the live one, a dense fold against its base")
    exported.add_argument("path", nargs="?", default="pkg://lynx_moe.pocket/weights", help="a base VLM (%(default)s)")
    measured = ("dense", "native", "code")
    exported.add_argument("--routes", nargs="+", default=measured, choices=measured, help="default all of them")
    exported.add_argument("--layers", default="every_other", help="of native's and code's blocks (%(default)s)")
    mixes = ("additive", "convex", "token")
    exported.add_argument("--mix", default="additive", choices=mixes, help="of native's and code's (%(default)s)")
    exported.add_argument("--rows", type=at_least_one, default=8, help="rows of a batch (default %(default)s)")
    exported.add_argument("--new-tokens", type=at_least_one, default=32, help="generated per row (default %(default)s)")
    exported.add_argument("--dtype", default="float32", choices=types, help="default %(default)s")
    steps = add("stepwise", run_bench_stepwise, "stepwise answers in one forward against a forward per step")
    rows = add("packing", run_bench_packing, "packed rows against padded batches")
    for command, records, batch in ((steps, 64, 8), (rows, 256, 16)):
        command.add_argument(
            "path", nargs="?", default="pkg://lynx_moe.pocket/weights", help="a base VLM (%(default)s)"
        )
        command.add_argument("--data", metavar="FOLDER", help="records (default: synth draws some for the while)")
        command.add_argument("--split", default="train", help="which split of --data (default %(default)s)")
        command.add_argument("--records", type=at_least_one, default=records, help="at most (default %(default)s)")
        command.add_argument("--batch", type=at_least_one, default=batch, help="records per step (default %(default)s)")
        command.add_argument("--layers", default="every_other", help="default %(default)s")
        command.add_argument("--attention", default="eager", help="of transformers (default %(default)s)")
        command.add_argument("--precision", default="auto", choices=precisions, help="as in training (%(default)s)")
    rows.add_argument("--pack-tokens", type=at_least_one, default=256, help="of a row (default %(default)s)")
    for command, repeats, seconds in (
        (block, 5, 1.0), (step, 20, 30.0), (exported, 10, 30.0), (steps, 5, 60.0), (rows, 5, 60.0),
    ):  # fmt: skip
        command.add_argument("--repeats", type=at_least_one, default=repeats, help="rounds at least (%(default)s)")
        command.add_argument("--seconds", type=float, default=seconds, help="go on for so long per case (%(default)s)")
        command.add_argument("--threads", type=at_least_one, help="CPU threads (default: torch's own choice)")
    return parser


BENCH = (
    "All are timed in turn in one process: a busy machine slows all alike. A ratio is the median of all rounds' own."
)


def run_quickstart(given: argparse.Namespace) -> dict:
    from lynx_moe.quickstart import quickstart

    return quickstart(Path(given.out), overrides=given.overrides, limit=given.limit, overwrite=given.overwrite)


def run_doctor(given: argparse.Namespace) -> dict:
    from lynx_moe.doctor import doctor
    from lynx_moe.training.command import conf_beside, settings_from

    settings = settings_from(conf_beside(), "train", given.overrides)
    return doctor(settings, Path(given.out), pictures=given.pictures, limit=given.limit, steps=not given.no_steps)


def run_report(given: argparse.Namespace) -> dict:
    from lynx_moe.report import report

    made = report(given.folders, given.out, tolerance=given.tolerance)
    print(f"{made['pick']['headline']}\n{made['pick']['why']}\n{made['page']}")
    return {"ok": True, **made}


def run_perception(given: argparse.Namespace) -> dict:
    from lynx_moe.perception import Comparison, perception, written

    names = ("base", "data", "epochs", "limit", "measured", "layers")
    chosen = Comparison(**{name: getattr(given, name) for name in names}, seeds=tuple(given.seeds))
    return {"ok": True, **written(perception(chosen), Path(given.out))}


def run_families(given: argparse.Namespace) -> dict:
    if given.path is None:
        return run_every_family(given.markdown)
    from lynx_moe.families.survey import print_survey, survey
    from lynx_moe.training.base import resolve

    choice = given.layers
    if all(part.strip().lstrip("-").isdigit() for part in choice.split(",")):
        choice = [int(part) for part in choice.split(",")]
    found = survey(resolve(given.path), choice)
    print_survey(found)
    return {"ok": True, **found}


def run_every_family(page: str | None) -> dict:
    from rich.progress import track

    from lynx_moe.family_table import as_json, families, family_rows, markdown, write_markdown

    names = families()
    rows = list(track(family_rows(names), description="families", total=len(names), transient=True))
    if page:
        write_markdown(page, rows)
        print(f"{len(rows)} families written to {page}")
    else:
        print(markdown(rows))
    return {"ok": not any(row.ours for row in rows), "families": as_json(rows)}


def run_bench_block(given: argparse.Namespace) -> dict:
    from lynx_moe.bench import bench_block

    names = ("tokens", "experts", "dtypes", "width", "ffn_width", "repeats", "seconds", "threads")
    return bench_block(**{name: getattr(given, name) for name in names})


def run_bench_step(given: argparse.Namespace) -> dict:
    from lynx_moe.bench import bench_step

    names = ("layers", "rows", "precision", "repeats", "seconds", "threads")
    return bench_step(given.path, **{name: getattr(given, name) for name in names})


def run_bench_export(given: argparse.Namespace) -> dict:
    from lynx_moe.bench import bench_export

    names = ("routes", "layers", "mix", "rows", "new_tokens", "dtype", "repeats", "seconds", "threads")
    return bench_export(given.path, **{name: getattr(given, name) for name in names})


PASSES = ("data", "split", "records", "batch", "layers", "attention", "precision", "repeats", "seconds", "threads")


def run_bench_stepwise(given: argparse.Namespace) -> dict:
    from lynx_moe.bench import bench_stepwise

    return bench_stepwise(given.path, **{name: getattr(given, name) for name in PASSES})


def run_bench_packing(given: argparse.Namespace) -> dict:
    from lynx_moe.bench import bench_packing

    return bench_packing(given.path, **{name: getattr(given, name) for name in (*PASSES, "pack_tokens")})


def run_bench_cache(given: argparse.Namespace) -> dict:
    from lynx_moe.bench import bench_cache

    names = (
        "mode", "layers", "records", "batch_size", "retention_kl", "rounds", "strengths", "epochs", "threads",
    )  # fmt: skip
    return bench_cache(given.path, **{name: getattr(given, name) for name in names})


def quieten() -> None:
    """Leaves the terminal to our own words: no bars for loading a file, no notes to other libraries' authors."""
    # Read by huggingface_hub and, through it, by transformers when they are imported, which is later.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers\..*")


if __name__ == "__main__":
    sys.exit(main())
