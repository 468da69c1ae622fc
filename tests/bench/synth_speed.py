"""What synth reaches: python tests/bench/synth_speed.py [--pictures N] [--json F]

Four measures, each in processes of its own, on a COCO file that is made here: records per second from annotations
without pixels, rendered pictures against drawing and encoding alone, two workers against one, and peak memory of a
long run against a short one. Every figure is the median of --repeats runs, with least and most. Beside them stands what
the machine itself gives: a loop of plain Python alone, and two such loops at once, which no two workers can beat.
"""

import argparse
import json
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NAMES = "person car dog cat chair cup bottle book bird boat horse sheep bench clock vase kite".split()
TASKS = ["find_one", "find_all", "relation", "absent", "count", "exists", "where"]


def coco(root: Path, pictures: int) -> Path:
    """A COCO file of 3 to 9 boxes a picture; the pictures are empty files, for nobody may open them."""
    rng = random.Random(0)
    (root / "images").mkdir(parents=True)
    images, annotations = [], []
    for k in range(pictures):
        (root / "images" / f"{k:07}.jpg").touch()
        images.append({"id": k, "file_name": f"{k:07}.jpg", "width": 640, "height": 480})
        for _ in range(rng.randint(3, 9)):
            box = [rng.uniform(0, 500), rng.uniform(0, 400), rng.uniform(20, 120), rng.uniform(20, 70)]
            entry = {"id": len(annotations), "image_id": k, "category_id": rng.randrange(len(NAMES)) + 1, "iscrowd": 0}
            annotations.append({**entry, "bbox": [round(v, 2) for v in box], "area": round(box[2] * box[3], 2)})
    categories = [{"id": n, "name": name} for n, name in enumerate(NAMES, 1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "instances.json").write_text(json.dumps(content))
    return root


def one_run(what: str, size: int, folder: str, workers: int) -> dict:
    """In a fresh process: seconds, records and peak memory of one way of working."""
    import io

    from rich.console import Console

    import synth
    import synth.write
    from synth.settings import Settings
    from synth.sources.options import FolderOptions
    from synth.sources.rendered import RenderedOptions, RenderedSource

    quiet = Console(file=io.StringIO())
    with tempfile.TemporaryDirectory() as out:
        common = {"out": f"{out}/data", "size": size, "shard_size": 500, "workers": workers}
        if what == "draw":
            source = RenderedSource(RenderedOptions(side=336))
            source.scene(0, "train", 0)  # assets are read once
            start = time.perf_counter()
            for k in range(size):
                source.scene(k, "train", 0).image_bytes()
            return {"seconds": time.perf_counter() - start, "records": 0}
        if what == "rendered":
            settings = Settings(**common, task=TASKS, rendered=RenderedOptions(side=336))
            RenderedSource(settings.rendered).scene(0, "train", 0)
        else:
            annotated = {"source": "coco", "split": "all", "images": "link", "folder": FolderOptions(path=folder)}
            settings = Settings(**common, task=TASKS, **annotated)
        indexed = []
        opened = synth.write.open_source

        def open_source(*args):
            source = opened(*args)
            indexed.append(time.perf_counter())
            return source

        synth.write.open_source = open_source
        start = time.perf_counter()
        manifest = synth.make(settings, console=quiet)
        end = time.perf_counter()
    records = sum(manifest["counts"][settings.split].values())
    # Of this program alone: what getrusage tells begins with the parent's.
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return {"seconds": end - indexed[0], "index": indexed[0] - start, "records": records, "peak_mib": int(peak) / 1024}


_LOOP = """
import time
start, total, kept = time.perf_counter(), 0, {}
for k in range(5_000_000):
    total += k
    kept[k & 1023] = total
print(time.perf_counter() - start)
"""


def loops(at_once: int) -> float:
    """Seconds of five million turns of a plain loop, the slowest of so many processes that run it at the same time."""
    started = [subprocess.Popen([sys.executable, "-c", _LOOP], stdout=subprocess.PIPE) for _ in range(at_once)]
    return max(float(process.communicate()[0]) for process in started)


def runs(what: str, size: int, folder: str, workers: int, repeats: int) -> list[dict]:
    """So many runs, each in a process of its own."""
    command = [sys.executable, __file__, "--one", what, str(size), folder, str(workers)]
    return [json.loads(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(repeats)]


def spread(values: list[float]) -> str:
    """Median (least to most)."""
    return f"{statistics.median(values):,.4g} ({min(values):,.4g} to {max(values):,.4g})"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--one", nargs=4)
    parser.add_argument("--pictures", type=int, default=4000, help="annotated pictures; about 30 records each")
    parser.add_argument("--drawn", type=int, default=200, help="rendered pictures")
    parser.add_argument("--records", type=int, default=0, help="length of the long run for memory; 0: leave it out")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.one:
        what, size, folder, workers = given.one
        print(json.dumps(one_run(what, int(size), folder, int(workers))))
        return
    found = {}
    with tempfile.TemporaryDirectory() as place:
        folder = str(coco(Path(place) / "coco", given.pictures))
        alone, both, plain = [], [], []
        for _ in range(given.repeats):  # side by side: the machine may change its speed
            alone += runs("annotated", given.pictures, folder, 1, 1)
            both += runs("annotated", given.pictures, folder, 2, 1)
            plain.append((loops(1), loops(2)))
        found["plain Python, million turns of a loop per second"] = spread([5 / one for one, _ in plain])
        found["two plain loops at once against one"] = spread([2 * one / two for one, two in plain])
        found["records per second from annotations"] = spread([r["records"] / r["seconds"] for r in alone])
        found["index, ms per picture"] = spread([1000 * r["index"] / given.pictures for r in alone])
        found["two workers against one"] = spread(
            [a["seconds"] / b["seconds"] for a, b in zip(alone, both, strict=True)]
        )
        drawn = [
            (runs("draw", given.drawn, "", 1, 1)[0], runs("rendered", given.drawn, "", 1, 1)[0])
            for _ in range(given.repeats)
        ]
        found["rendered records against drawing and encoding alone"] = spread(
            [a["seconds"] / b["seconds"] for a, b in drawn]
        )
        found["rendered 336 x 336 pictures per second"] = spread([given.drawn / b["seconds"] for _, b in drawn])
        if given.records:
            each = alone[0]["records"] / given.pictures
            short, long = (int(n / each) for n in (10_000, given.records))
            more = str(coco(Path(place) / "more", long))
            low, high = (runs("annotated", n, more, 1, 1)[0] for n in (short, long))
            found["peak MiB"] = f"{low['peak_mib']:.0f} for {low['records']:,} records, {high['peak_mib']:.0f} for " + (
                f"{high['records']:,}"
            )
            found["peak memory, long against short"] = f"{high['peak_mib'] / low['peak_mib']:.3f}"
    for name, value in found.items():
        print(f"{name}: {value}")
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
