"""Frozen networks whose features of a picture the decoder's own picture tokens may learn to tell.

A new one is one file with a class that `TEACHERS.register` files, and one line below.
"""

from lynx_moe.objectives.teachers.backbone import BackboneTeacher
from lynx_moe.objectives.teachers.base import TEACHERS, Teacher
from lynx_moe.objectives.teachers.features import TeacherFeatures
from lynx_moe.objectives.teachers.mask2former import Mask2FormerTeacher
from lynx_moe.objectives.teachers.sam2 import Sam2Teacher
from lynx_moe.objectives.teachers.timm_features import TimmTeacher

__all__ = [
    "TEACHERS",
    "BackboneTeacher",
    "Mask2FormerTeacher",
    "Sam2Teacher",
    "Teacher",
    "TeacherFeatures",
    "TimmTeacher",
]
