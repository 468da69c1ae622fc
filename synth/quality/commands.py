"""The subcommands of ``python -m synth`` that look at data: ``report`` and ``contamination``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from synth.errors import SettingsError
from synth.quality.near import THRESHOLD


@dataclass(frozen=True, slots=True)
class Command:
    """A subcommand: its arguments, and what it does with them; ``run`` returns the exit status."""

    parser: Callable[[], argparse.ArgumentParser]
    run: Callable[[argparse.Namespace], int]


def _report_parser() -> argparse.ArgumentParser:
    parser = _parser("report", "write report.html, report.json and PNGs about a dataset folder")
    parser.add_argument("folder", help="dataset folder that synth finished")
    parser.add_argument("--out", default=None, help="where to write (default: FOLDER/report)")
    parser.add_argument("--no-looks", action="store_true", help="do not decode all pictures to find look-alikes")
    return parser


def _report(given: argparse.Namespace) -> int:
    from synth.quality.report import report

    content = report(given.folder, given.out, looks=not given.no_looks, threshold=given.threshold)
    for warning in content["warnings"]:
        print(f"warning: {warning}")
    print(Path(given.out or Path(given.folder) / "report") / "report.html")
    return 0


def _contamination_parser() -> argparse.ArgumentParser:
    parser = _parser("contamination", "list pictures that an evaluation set holds too; exit status 1 if there are any")
    parser.add_argument("folder", help="dataset folder of synth, or folder of pictures")
    parser.add_argument(
        "--against", action="append", required=True, help="folder of an evaluation set; may be repeated"
    )
    return parser


def _contamination(given: argparse.Namespace) -> int:
    from synth.quality.contamination import contamination

    if not Path(given.folder).is_dir():
        raise SettingsError(f"{given.folder} is no folder", why="there are no pictures in it", fix="name the data set")
    unreadable: list[str] = []
    number = 0
    for found in contamination(given.folder, given.against, given.threshold, unreadable):
        print(found)
        number += 1
    print(f"{number} pictures of {given.folder} are in an evaluation set; {len(unreadable)} could not be compared")
    return 1 if number else 0


COMMANDS = {
    "report": Command(_report_parser, _report),
    "contamination": Command(_contamination_parser, _contamination),
}


def _parser(name: str, text: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m synth {name}", description=text)
    parser.add_argument(
        "--threshold", type=int, default=THRESHOLD, metavar="BITS",
        help="bits of 64 in which pictures that look alike may differ, 0 to 15 (default %(default)s)",
    )  # fmt: skip
    return parser
