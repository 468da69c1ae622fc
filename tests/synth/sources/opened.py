"""Opening an annotated folder as a run does, with an index of its own."""

import tempfile
from pathlib import Path

from synth.settings import Settings
from synth.sources import detected, open_source
from synth.sources.options import FolderOptions


def opened(name, options, split="all", **more):
    if not isinstance(options, FolderOptions):
        options = FolderOptions(path=str(options))
    settings = detected(Settings(source=name, folder=options, split=split, **more))
    return open_source(settings, Path(tempfile.mkdtemp()) / "work")


def scenes(name, options, split="all", **more):
    """Every scene of a source by the name of its picture."""
    source = opened(name, options, split, **more)
    made = [source.scene(k, split, 0) for k in range(len(source))]
    return {scene.file: scene for scene in made}


def faults(name, options, split="all"):
    """(reason, row) of everything that was quarantined outside of the pixels, sorted."""
    source = opened(name, options, split)
    every = [*source.faults, *(fault for k in range(len(source)) for fault in source.object_faults(k))]
    return sorted((fault.reason, fault.row) for fault in every)


def listed(scene):
    """(name, box) of the objects, the box rounded to a hundredth of a pixel."""
    return [(obj.name, tuple(round(float(v), 2) for v in obj.box)) for obj in scene.objects]
