"""The subcommands of ``python -m synth``: what is done with data that is there. A new one is a row in ``COMMANDS``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from synth.errors import SettingsError
from synth.quality.near import THRESHOLD


@dataclass(frozen=True, slots=True)
class Command:
    """A subcommand: what it does in words, its arguments, and the doing; ``run`` returns the exit status."""

    does: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]

    def parser(self, name: str) -> argparse.ArgumentParser:
        """Return the parser of what stands behind ``python -m synth NAME``."""
        parser = argparse.ArgumentParser(prog=f"python -m synth {name}", description=self.does)
        self.arguments(parser)
        return parser


def _report_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="dataset folder that synth finished")
    parser.add_argument("--out", default=None, help="where to write (default: FOLDER/report)")
    parser.add_argument("--no-looks", action="store_true", help="do not decode all pictures to find look-alikes")
    _threshold(parser)


def _report(given: argparse.Namespace) -> int:
    from synth.quality.report import report

    content = report(given.folder, given.out, looks=not given.no_looks, threshold=given.threshold)
    for warning in content["warnings"]:
        print(f"warning: {warning}")
    print(Path(given.out or Path(given.folder) / "report") / "report.html")
    return 0


def _contamination_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="dataset folder of synth, or folder of pictures")
    parser.add_argument(
        "--against", action="append", required=True, help="folder of an evaluation set; may be repeated"
    )
    _threshold(parser)


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


def _check_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="dataset folder that synth finished")


def _check(given: argparse.Namespace) -> int:
    from synth.check_folder import check_folder

    checked = wrong = 0
    for record, faults in check_folder(Path(given.folder)):
        checked += 1
        wrong += bool(faults)
        for fault in faults:
            print(f"{record}: {fault}")
    print(f"{checked} records derived again from their pictures' facts, {wrong} of them differ")
    return 1 if wrong else 0


def _webdataset_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="dataset folder that synth finished")
    parser.add_argument("--out", required=True, help="folder for the tar files")
    parser.add_argument(
        "--pictures-root", type=Path, default=None,
        help="folder of the pictures, where the data only names them (images=link) and they have moved",
    )  # fmt: skip


def _webdataset(given: argparse.Namespace) -> int:
    from synth.webdataset import to_webdataset

    for split, samples in to_webdataset(Path(given.folder), Path(given.out), given.pictures_root).items():
        print(f"{given.out}: split {split!r} has {samples} samples")
    return 0


def _tasks(given: argparse.Namespace) -> int:
    from synth.tasks.gallery import markdown

    print(markdown(), end="")
    return 0


COMMANDS = {
    "report": Command("write report.html, report.json and PNGs about a dataset folder", _report_arguments, _report),
    "check": Command(
        "derive every record again from what is known of its picture; exit status 1 if any differs",
        _check_arguments, _check,
    ),
    "contamination": Command(
        "list pictures that an evaluation set holds too; exit status 1 if there are any",
        _contamination_arguments, _contamination,
    ),
    "webdataset": Command(
        "write a dataset folder as tar files for trainers that stream", _webdataset_arguments, _webdataset,
    ),
    "tasks": Command("print every task with a record in each language, as docs/tasks.md", lambda parser: None, _tasks),
}  # fmt: skip


def _threshold(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threshold", type=int, default=THRESHOLD, metavar="BITS",
        help="bits of 64 in which pictures that look alike may differ, 0 to 15 (default %(default)s)",
    )  # fmt: skip
