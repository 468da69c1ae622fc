"""Settings of learning from vision teachers beside the answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from lynx_moe.errors import ConfigError
from lynx_moe.training.checked import Checked, setting


@dataclass(kw_only=True, slots=True)
class TeacherSettings(Checked):
    GROUP: ClassVar[str] = "objective.distil.low_teacher"
    kind: str = setting(
        "sam2",
        "what the teacher is: sam2, the levels of its image encoder's pyramid; mask2former, its pixel decoder's maps; "
        "backbone, any vision model of transformers; timm, the stages of any network of timm",
        choices=("sam2", "mask2former", "backbone", "timm"),
    )
    path: str = setting("", "its folder of safetensors, or its name on the Hub; must be given where it teaches")
    layer: int = setting(-1, "which of its maps, counted as a list is: -1 the last, as each kind orders them")
    size: int = setting(0, "pixels along a side of the pictures it sees; 0: as its own settings say", low=0)
    dtype: str = setting("float32", "number type it computes in", choices=("float32", "bfloat16", "float16"))


@dataclass(kw_only=True, slots=True)
class HighTeacherSettings(TeacherSettings):
    GROUP: ClassVar[str] = "objective.distil.high_teacher"
    kind: str = setting(
        "mask2former",
        "as of low_teacher",
        choices=("sam2", "mask2former", "backbone", "timm"),
    )


@dataclass(kw_only=True, slots=True)
class DistilSettings(Checked):
    GROUP: ClassVar[str] = "objective.distil"
    weight: float = setting(
        0.0, "weight of telling a vision teacher's features, as Pixel-SAIL does; times each level's. 0: off", low=0.0
    )
    low: float = setting(1.0, "weight of telling low_teacher's from the picture tokens' own states", low=0.0)
    high: float = setting(0.0, "weight of telling high_teacher's from the upsampled map of objective.masks", low=0.0)
    distance: str = setting(
        "cosine", "between what is told and the teacher's, per cell: 1 - cosine, or smooth L1 to its normalised ones",
        choices=("cosine", "smooth_l1"),
    )  # fmt: skip
    low_teacher: TeacherSettings = field(default_factory=TeacherSettings)
    high_teacher: HighTeacherSettings = field(default_factory=HighTeacherSettings)
    cache_dir: str = setting("outputs/teachers", "folder of teachers' features, shared by runs", free=True)

    def __post_init__(self) -> None:
        Checked.__post_init__(self)
        self.refuse_all_nought("both of its levels", "low", "high")
        for level in ("low", "high"):
            if self.weight and getattr(self, level) and not getattr(self, f"{level}_teacher").path:
                raise ConfigError(
                    f"objective.distil.{level} has no teacher",
                    why="teachers are not shipped with this library",
                    fix=f"objective.distil.{level}_teacher.path=FOLDER_OR_HUB_NAME (and .kind), or "
                    f"objective.distil.{level}=0",
                )
