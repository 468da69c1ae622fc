"""The four ways of docs/data.md, by its commands: each ends in a folder that train.py trains on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from synth.sources.rendered import RenderedSource
from tests.synth.engines import test_teacher
from tests.synth.engines.chat_server import serving

ROOT = Path(__file__).resolve().parents[2]
pictures = test_teacher.folder  # a fixture

pytestmark = pytest.mark.slow


def run(*command: str) -> str:
    done = subprocess.run([sys.executable, *command], cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def trains(data: Path, tmp_path: Path) -> None:
    run("train.py", "data=folder", f"data.folder={data}", "data.held_out=val", "trainer.max_steps=4",
        "trainer.batch_size=2", f"output_dir={tmp_path / 'run'}", "trainer.progress=false")  # fmt: skip
    card = json.loads((tmp_path / "run/run.json").read_text())
    assert card["base_hash_unchanged"] and card["train"]["steps"] == 4


def yolo(root: Path) -> Path:
    """Rendered pictures as a YOLO folder with its own splits."""
    names = sorted({o.name for k in range(16) for o in RenderedSource().scene(k, "train", 0).objects})
    for k in range(16):
        scene, split = RenderedSource().scene(k, "train", 0), "train" if k < 10 else "val"
        lines = [
            f"{names.index(o.name)} {o.centre[0] / 128} {o.centre[1] / 128} {o.width / 128} {o.height / 128}"
            for o in scene.objects
        ]
        for part, name, content in (
            ("images", f"{k}.jpg", scene.image_bytes()[0]), ("labels", f"{k}.txt", "\n".join(lines).encode()),
        ):  # fmt: skip
            (root / part / split).mkdir(parents=True, exist_ok=True)
            (root / part / split / name).write_bytes(content)
    listed = "\n".join(f"  {k}: {name}" for k, name in enumerate(names))
    (root / "data.yaml").write_text(f"path: .\ntrain: images/train\nval: images/val\nnames:\n{listed}\n")
    return root


@pytest.mark.parametrize("way", ["yolo", "coco", "none"])
def test_annotated_pictures_and_no_pictures_train(way, tmp_path):
    data = tmp_path / "data"
    given = ["size=12"]
    if way == "yolo":
        given = ["source=yolo", f"folder.path={yolo(tmp_path / 'own')}"]
    elif way == "coco":
        run("-m", "synth.export_coco", str(tmp_path / "own"), "--size", "24")
        given = ["source=auto", f"folder.path={tmp_path / 'own'}", "folder.val_fraction=0.3"]
    for split in ("train", "val"):
        run("-m", "synth", *given, f"split={split}", f"out={data}")
    assert "0 of them differ" in run("-m", "synth", "check", str(data))
    trains(data, tmp_path)


def test_nothing_but_pictures_and_a_teacher_trains(pictures, tmp_path):
    root, scenes = pictures
    data = tmp_path / "data"
    with serving(test_teacher.Seeing(scenes)) as server:
        for split in ("train", "val"):
            run("-m", "synth", "engine=teacher", "source=pictures", f"folder.path={root}", "folder.val_fraction=0.4",
                f"llm.url={server.url}", "llm.model=m", f"split={split}", f"out={data}")  # fmt: skip
    assert "0 of them differ" in run("-m", "synth", "check", str(data))
    trains(data, tmp_path)
