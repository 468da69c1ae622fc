"""The part of the command line that is about exports: `lynx-moe export | unexport | verify`."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path


def at_least_one(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


def add_commands(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds the commands by `add(name, function, text)`, which returns the parser of one."""
    out = add("export", run_export, "write a Hugging Face folder that loads without this library, and prove it")
    out.add_argument("path", help="a run folder or an adapter")
    out.add_argument("--to", "--out", dest="out", metavar="FOLDER", help="folder to write (not needed with --plan)")
    # Plain words, checked by the plan: its names are known only after transformers is imported, which takes seconds.
    out.add_argument("--route", default="auto", help="auto, dense, native, code, adapter, or vllm (%(default)s)")
    out.add_argument("--gate", default="auto", choices=("auto", "on"), help="on: open on every prompt (%(default)s)")
    drop = "leave behind heads that answers need (masks, shown regions); the plan says what is lost"
    out.add_argument("--without-heads", action="store_true", help=drop)
    out.add_argument("--plan", action="store_true", help="only say what would be done, and write nothing")
    out.add_argument("--base", metavar="PATH", help="the base under the adapter (default: the one that it names)")
    out.add_argument("--base-repository", metavar="OWNER/NAME", help="the base's name on the Hub, for card and pin")
    out.add_argument("--base-revision", metavar="COMMIT", help="its commit there")
    out.add_argument("--dequantise", action="store_true", help="of a quantised base: write plain weights again")
    out.add_argument("--licence", help="licence to name in the card (default: the base's own)")
    out.add_argument("--max-shard-size", default="5GB", metavar="SIZE", help="of a file of weights (%(default)s)")
    out.add_argument("--overwrite", action="store_true", help="replace an export that is there")
    out.add_argument("--no-probe", action="store_true", help="leave out the 20 rendered scenes")
    record_arguments(out, "held-out records: a forget-free certificate is written")
    out.add_argument("--push-to", metavar="OWNER/NAME", help="then upload it to the Hub; nothing is uploaded without")
    out.add_argument("--public", action="store_true", help="a repository that --push-to makes is public")

    back = add("unexport", run_unexport, "make the adapter, and the base, of a native export again")
    back.add_argument("path", help="a folder exported by route native or vllm")
    wanted = "folder to write: adapter/ and, without --base, base/"
    back.add_argument("--to", "--out", dest="out", required=True, metavar="FOLDER", help=wanted)
    back.add_argument("--base", metavar="PATH", help="the base it was made from: checked, and not written again")

    check = add("verify", run_verify, "whether an export is still byte for byte, and logit for logit, what was written")
    check.add_argument("path", help="an exported folder")
    check.add_argument("--base", metavar="PATH", help="the base: folder, Hub name or pkg://package/folder")
    record_arguments(check, "held-out records: what base and export answer")
    check.add_argument("--certificate", metavar="FOLDER", help="write a certificate of what is found there")
    check.add_argument("--device", default="cpu", help="where the model is put (default %(default)s)")


def record_arguments(command: argparse.ArgumentParser, text: str) -> None:
    command.add_argument("--data", metavar="FOLDER", help=text)
    command.add_argument("--split", default="validation", help="which split of --data (default %(default)s)")
    command.add_argument("--limit", type=at_least_one, default=200, help="records at most (default %(default)s)")


def run_export(given: argparse.Namespace) -> dict:
    from lynx_moe.errors import ConfigError, ExportError
    from lynx_moe.export import export, of_run, plan, push
    from lynx_moe.export.push import check_name
    from lynx_moe.loading import load
    from lynx_moe.training.base import resolve

    if not given.plan and not given.out:
        raise ConfigError(
            "no folder to write", why="--to is missing", fix="add --to FOLDER, or --plan to write nothing"
        )
    if given.push_to:
        check_name(given.push_to)
    loaded = load(given.path, base=given.base, dequantise=given.dequantise)
    if not loaded.adapted:
        raise ExportError(
            f"{given.path} is {'an' if loaded.kind == 'export' else 'a'} {loaded.kind}",
            why="only a base with an adapter can be exported",
            fix="give the folder of a finished run",
        )
    if given.plan:
        chosen = plan(
            loaded.model,
            given.route,
            gate=given.gate,
            processor=loaded.processor,
            without_heads=given.without_heads,
        )
        print(chosen)
        return {"ok": True, **chosen.as_json()}
    provenance = of_run(given.path)
    report = export(
        loaded.model,
        loaded.processor,
        given.out,
        route=given.route,
        gate=given.gate,
        overwrite=given.overwrite,
        licence=given.licence,
        max_shard_size=given.max_shard_size,
        with_probe=not given.no_probe,
        records=held_out(given),
        base=resolve(given.base) if given.base else None,
        without_heads=given.without_heads,
        provenance=replace(
            provenance,
            command=typed(given),
            repository=given.base_repository or provenance.repository,
            revision=given.base_revision,
            notes=loaded.notes,
        ),
    )
    print(f"written to {report['path']}: {report['size_bytes'] / 1e6:.1f} MB, route {report['route']}")
    print(f"largest logit difference after reload: {report['max_abs_logit_diff']:.3g}")
    if given.push_to:
        report["pushed"] = push(report["path"], given.push_to, public=given.public)
        print(f"pushed: {report['pushed']}")
    return {"ok": True, **report}


def run_unexport(given: argparse.Namespace) -> dict:
    from lynx_moe.export import take_back

    result = take_back(given.path, out=given.out, base=given.base)
    rounded = result["base_tensors"]["rounded"]
    print(f"written to {result['path']}: the base's tensors are {'its own up to rounding' if rounded else 'its bytes'}")
    print(f"largest logit difference to the live model: {result['max_abs_logit_diff']:.3g}")
    return {"ok": True, **result}


def run_verify(given: argparse.Namespace) -> dict:
    from lynx_moe.export import verify
    from lynx_moe.training.base import resolve

    result = verify(
        given.path,
        resolve(given.base) if given.base else None,
        held_out(given),
        device=given.device,
        certificate_to=given.certificate,
    )
    for words in result["complaints"]:
        print(words, file=sys.stderr)
    if "max_abs_logit_diff" in result:
        print(f"largest logit difference: {result['max_abs_logit_diff']:.3g}")
    if "probe" in result:
        found = result["probe"]
        print(f"probe: {found['same_boxes']} of {found['n']} scenes have the live model's boxes")
    if "certificate" in result:
        print(result["certificate"]["verdict"]["words"])
        for gap in result["certificate"]["not_checked"]:
            print(f"not checked: {gap['what']} ({gap['why']})")
    print("verified" if result["ok"] else "NOT what was exported")
    return result


def held_out(given: argparse.Namespace):
    from lynx_moe.data import load_records

    return load_records(given.data, given.split, limit=given.limit) if given.data else None


def typed(given: argparse.Namespace) -> str:
    """The command line as it can be typed again, the home folder as ~: cards are read by strangers."""
    home = str(Path.home())
    words = [f"~{word.removeprefix(home)}" if word.startswith(f"{home}/") else word for word in given.typed]
    return " ".join(["lynx-moe", *(word if word.startswith("~") else shlex.quote(word) for word in words)])
