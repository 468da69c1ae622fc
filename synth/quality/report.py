"""Write what a dataset folder holds: ``report.html`` to read, ``report.json`` with every number, PNGs to look at."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.progress import Progress

from synth.errors import SettingsError, disk_trouble
from synth.folder import write_whole
from synth.quality.figures import figures
from synth.quality.gather import gather
from synth.quality.near import THRESHOLD, check_threshold
from synth.quality.numbers import POINTS, numbers
from synth.quality.sheets import SIDE, Shown, contact_sheet, show
from synth.quality.tables import Tables


def report(
    folder: str | Path, out: str | Path | None = None, *, looks: bool = True, threshold: int = THRESHOLD,
    console: Console | None = None,
) -> dict:  # fmt: skip
    """Write the report on a dataset folder and return the content of ``report.json``.

    Args:
        folder: a dataset folder that synth finished.
        out: where to write; ``folder/report`` when None. Files of an earlier report there are replaced.
        looks: compare the pictures with each other; it decodes them all.
        threshold: bits of 64 in which two pictures that look alike may differ.

    Raises:
        SourceError: the folder is no finished dataset, or damaged. OutputError: disk trouble.
        SettingsError: Jinja2 is missing, or the threshold is outside 0 to 15.
    """
    check_threshold(threshold)
    page = _template()
    tables = Tables(folder)
    out = Path(out) if out is not None else tables.folder / "report"
    with Progress(console=console or Console(stderr=True)) as progress:
        bar = progress.add_task("shards", total=len(tables.shards))
        found = gather(tables, looks=looks, tick=lambda: progress.advance(bar))
    content = numbers(tables, found, looks=looks, threshold=threshold)
    samples = found.samples.with_pictures(tables)
    shown = {task: [s for s in map(show, some) if s is not None] for task, some in samples.items()}
    drawn = figures(content)
    with disk_trouble(out):
        out.mkdir(parents=True, exist_ok=True)
        for task, some in shown.items():
            if some:
                write_whole(
                    out / f"sheet-{_file_name(task)}.png", _encoded(contact_sheet(task, some), "PNG", compress_level=3)
                )
        for name, data in drawn.items():
            write_whole(out / f"figure-{name}.png", data)
        text = page.render(
            report=content, points=POINTS, samples={task: [_cell(s) for s in some] for task, some in shown.items()},
            figures={name: _uri(data, "png") for name, data in drawn.items()},
        )  # fmt: skip
        write_whole(out / "report.html", text.encode())
        write_whole(out / "report.json", (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
    return content


def _template():
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as problem:
        raise SettingsError(
            "the report needs Jinja2, which is not installed", why="it fills the page",
            fix='pip install "lynx-moe[report]"',
        ) from problem  # fmt: skip
    made = Environment(
        loader=PackageLoader("synth.quality"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    return made.get_template("report.html.j2")


def _cell(shown: Shown) -> dict:
    picture = _uri(_encoded(shown.picture, "WEBP", method=1, quality=85), "webp")
    return {
        "picture": picture,
        "several": shown.picture.width > SIDE,
        "question": shown.question,
        "steps": shown.steps,
        "answer": shown.answer,
        "id": shown.id,
    }


def _encoded(picture: Image.Image, kind: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def _uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _file_name(task: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "_", task)[:80]
