"""The subcommands of ``python -m synth`` that look at data: ``report`` and ``contamination``."""

from __future__ import annotations

import argparse
from pathlib import Path

from synth.errors import SettingsError
from synth.quality.contamination import contamination
from synth.quality.near import THRESHOLD


def report_command(arguments: list[str]) -> int:
    """Write the report on a dataset folder; exit status 0."""
    parser = _parser("report", "write report.html, report.json and PNGs about a dataset folder")
    parser.add_argument("folder", help="dataset folder that synth finished")
    parser.add_argument("--out", default=None, help="where to write (default: FOLDER/report)")
    parser.add_argument("--no-looks", action="store_true", help="do not decode all pictures to find look-alikes")
    given = parser.parse_args(arguments)
    from synth.quality.report import report

    content = report(given.folder, given.out, looks=not given.no_looks, threshold=given.threshold)
    for warning in content["warnings"]:
        print(f"warning: {warning}")
    print(Path(given.out or Path(given.folder) / "report") / "report.html")
    return 0


def contamination_command(arguments: list[str]) -> int:
    """List pictures that evaluation sets hold too; exit status 1 when there is any, 0 when there is none."""
    parser = _parser("contamination", "list pictures that an evaluation set holds too; exit status 1 if there are any")
    parser.add_argument("folder", help="dataset folder of synth, or folder of pictures")
    parser.add_argument(
        "--against", action="append", required=True, help="folder of an evaluation set; may be repeated"
    )
    given = parser.parse_args(arguments)
    if not Path(given.folder).is_dir():
        raise SettingsError(f"{given.folder} is no folder", why="there are no pictures in it", fix="name the data set")
    unreadable: list[str] = []
    number = 0
    for found in contamination(given.folder, given.against, given.threshold, unreadable):
        print(found)
        number += 1
    print(f"{number} pictures of {given.folder} are in an evaluation set; {len(unreadable)} could not be compared")
    return 1 if number else 0


COMMANDS = {"report": report_command, "contamination": contamination_command}


def _parser(name: str, text: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m synth {name}", description=text)
    parser.add_argument(
        "--threshold", type=int, default=THRESHOLD, metavar="BITS",
        help="bits of 64 in which pictures that look alike may differ, 0 to 15 (default %(default)s)",
    )  # fmt: skip
    return parser
