"""What a run of synth is told: the one place where defaults are written."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from synth.engines.options import LlmOptions, TeacherOptions
from synth.errors import SettingsError, nearest
from synth.sources.options import FolderOptions
from synth.sources.paste import PasteOptions
from synth.sources.ranges import is_range
from synth.sources.rendered import RenderedOptions
from synth.sources.solid import SolidOptions


@dataclass(kw_only=True, slots=True)
class Settings:
    """All settings of ``python -m synth`` and ``synth.make``."""

    out: str = field(default="outputs/data", metadata={"help": "dataset folder to write; several splits may share one"})
    task: Any = field(
        default="all",
        metadata={
            "help": "tasks or kinds (grounding, understanding), or all; each picture gets every one; tasks about "
            "several pictures come by name, or with the word several, as in [all,several]; those that answer with "
            "masks need masks=true"
        },
    )
    source: str = field(
        default="rendered", metadata={"help": "where pictures come from; auto: what folder.path looks like"}
    )
    size: int | None = field(
        default=None, metadata={"help": "number of pictures; null: all of a source, 1000 of an endless one"}
    )
    split: str = field(default="train", metadata={"help": "name of the split; another split draws other pictures"})
    seed: Any = field(default=0, metadata={"help": "number or word; the same seed gives the same bytes"})
    language: str = field(
        default="en", metadata={"help": "language of questions and answers: a pack in synth/languages"}
    )
    questions_per_image: int | None = field(
        default=None, metadata={"help": "questions kept per picture, drawn from those of all tasks; null: keep all"}
    )
    grounding_share: float | None = field(
        default=None,
        metadata={
            "help": "share of the pictures that get only grounding questions; the others get only understanding ones; "
            "null: every picture gets both kinds"
        },
    )
    difficulty: Any = field(
        default=None, metadata={"help": "[low, high]: only questions this difficult, 1 to 5; null: all"}
    )
    balance: bool = field(
        default=False,
        metadata={"help": "thin questions with few possible answers until the question alone does not tell the answer"},
    )
    licences: list[str] | None = field(
        default=None, metadata={"help": "licences a picture may have; others are quarantined; null: any"}
    )
    against: list[str] | None = field(
        default=None,
        metadata={"help": "evaluation sets (folders of pictures, or of synth): pictures like theirs are left out"},
    )
    shard_size: int = field(default=1000, metadata={"help": "pictures per file; an interrupted run resumes by file"})
    workers: int = field(default=1, metadata={"help": "processes; the number does not change the result"})
    runner: str = field(
        default="local",
        metadata={"help": "where workers run: local processes, or ray (a cluster, or this machine); no other result"},
    )
    overwrite: bool = field(default=False, metadata={"help": "replace this split in a folder made with other settings"})
    images: str = field(
        default="embed",
        metadata={
            "help": "embed: pictures are stored, with what their things cover; link: only paths, no picture is opened"
        },
    )
    masks: bool = field(
        default=False,
        metadata={
            "help": "give every box the visible pixels of its thing, where the source knows them; all and grounding "
            "then hold the tasks that answer with masks"
        },
    )
    folder: FolderOptions = field(
        default_factory=FolderOptions, metadata={"help": "options of the sources that read an annotated folder"}
    )
    paste: PasteOptions = field(default_factory=PasteOptions, metadata={"help": "options of source=paste"})
    solid: SolidOptions = field(default_factory=SolidOptions, metadata={"help": "options of source=solid"})
    rendered: RenderedOptions = field(default_factory=RenderedOptions, metadata={"help": "options of source=rendered"})
    engine: str = field(
        default="template",
        metadata={"help": "who words records: template, llm (rewords them), or teacher (says what is in a picture)"},
    )
    llm: LlmOptions = field(default_factory=LlmOptions, metadata={"help": "the server of engine=llm and teacher"})
    teacher: TeacherOptions = field(default_factory=TeacherOptions, metadata={"help": "options of engine=teacher"})

    def task_names(self) -> list[str]:
        """Return the chosen tasks, sorted; raises ``SettingsError`` with the nearest names for an unknown one.

        Kinds and "all" stand for tasks about one picture: many models take no more. Without ``masks`` they leave out
        the tasks that answer with masks, which cannot be asked by name either.
        """
        from synth.languages import load_pack
        from synth.tasks import TASKS
        from synth.tasks.base import KINDS, SEVERAL

        chosen = [self.task] if isinstance(self.task, str) else self.task
        if not isinstance(chosen, (list, tuple)) or not chosen:
            raise SettingsError(
                f"task={self.task!r} names no task", why="it must be a name, a list of names, or all",
                fix=f"choose from {', '.join(sorted(TASKS))}",
            )  # fmt: skip
        worded = load_pack(self.language).tasks
        names = set()
        for name in map(str, chosen):
            if name in ("all", SEVERAL, *KINDS):
                names.update(
                    known for known, task in TASKS.items()
                    if known in worded and (task.pictures > 1) == (name == SEVERAL) and (self.masks or not task.masks)
                    and (name in ("all", SEVERAL) or task.kind == name)
                )  # fmt: skip
            elif name in TASKS and TASKS[name].masks and not self.masks:
                raise SettingsError(
                    f"task {name!r} answers with masks, and masks=false",
                    why="records hold masks only where they are asked for", fix="masks=true",
                )  # fmt: skip
            elif name in worded:
                names.add(name)
            elif name in TASKS:
                raise SettingsError(
                    f"task {name!r} has no wording in language {self.language!r}",
                    why=f"its pack words {', '.join(sorted(worded))}",
                    fix=f"choose another task, or write [tasks.{name}] in synth/languages/{self.language}.toml",
                )
            else:
                raise SettingsError(
                    f"unknown task {name!r}", why=f"known tasks are {', '.join(sorted(TASKS))}",
                    fix=f"task={nearest(name, TASKS)}",
                )  # fmt: skip
        return sorted(names)

    def check(self) -> None:
        """Raise ``SettingsError`` for a value that no run can use."""
        from synth import engines
        from synth.tasks import TASKS

        for name in ("size", "questions_per_image", "shard_size", "workers"):
            value = getattr(self, name)
            optional = name in ("size", "questions_per_image")
            if (value is None and optional) or (type(value) is int and value >= 1):
                continue
            raise SettingsError(
                f"{name}={value!r} is not a whole number of at least 1{' or null' if optional else ''}",
                why=f"{name} counts things", fix=f"for example {name}=2",
            )  # fmt: skip
        share = self.grounding_share
        if share is not None and (type(share) not in (int, float) or not 0 <= share <= 1):
            raise SettingsError(
                f"grounding_share={share!r} is not a number from 0 to 1 or null", why="it is a share of the pictures",
                fix="for example grounding_share=0.75",
            )  # fmt: skip
        if self.runner not in ("local", "ray"):
            raise SettingsError(
                f"runner={self.runner!r} is unknown", why="workers run as local processes or on Ray",
                fix="runner=local or runner=ray",
            )  # fmt: skip
        if self.images not in ("embed", "link"):
            raise SettingsError(
                f"images={self.images!r} is unknown", why="pictures are stored (embed) or named by their path (link)",
                fix="images=embed or images=link",
            )  # fmt: skip
        if self.masks and self.engine == "teacher":
            raise SettingsError(
                "masks=true, but engine=teacher knows boxes only", why="a model told it what is in the pictures",
                fix="masks=false, or an annotated source with outlines",
            )  # fmt: skip
        if self.difficulty is not None and not is_range(self.difficulty, 1, 5):
            raise SettingsError(
                f"difficulty={self.difficulty!r} is not a range of whole numbers from 1 to 5, or null",
                why="questions are told apart by how hard they are (synth/tasks/difficulty.py)",
                fix="for example difficulty=[3,5]",
            )
        self.rendered.check()
        for name in ("licences", "against"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, list) and value and all(type(v) is str for v in value)):
                raise SettingsError(
                    f"{name}={value!r} is neither null nor a list of words", why="it is looked through word by word",
                    fix='for example licences=["CC BY 4.0"] or against=[path/to/folder]',
                )  # fmt: skip
        if not re.fullmatch(r"[A-Za-z0-9_]+", self.split):
            raise SettingsError(
                f"split={self.split!r} is not a plain word", why="it becomes part of file names",
                fix="use letters, digits and underscores, for example split=train",
            )  # fmt: skip
        if type(self.seed) not in (int, str):
            raise SettingsError(
                f"seed={self.seed!r} is neither a whole number nor a word", why="it names the random streams",
                fix="for example seed=0",
            )  # fmt: skip
        needed = max((TASKS[name].pictures for name in self.task_names()), default=1)
        if self.shard_size < needed:
            raise SettingsError(
                f"shard_size={self.shard_size} holds no group of {needed} pictures",
                why="questions about several pictures are asked of neighbours in one file",
                fix=f"shard_size={needed} or more",
            )
        engines.check(self)
