"""What a model can do, measured on what it wrote by itself: grounding, and what is left of its other skills.

A new measure of records is one file with a function that `MEASURES.register` files, and one line below. A benchmark
with files of its own is a protocol: one file in `lynx_moe/evaluation/protocols/`.
"""

from lynx_moe.evaluation import grounding, masks, retention  # noqa: F401  (registers the measures)
from lynx_moe.evaluation.answered import MEASURES, Answered
from lynx_moe.evaluation.calibration import (
    Temperature,
    brier,
    calibration_report,
    expected_calibration_error,
    reliability,
)
from lynx_moe.evaluation.confidence import agreement, box_confidences
from lynx_moe.evaluation.generate import Generated, answer_ends, generate_answers, prompt_batches
from lynx_moe.evaluation.report import print_report, report_table
from lynx_moe.evaluation.retention import compare, mcnemar_p, normalise
from lynx_moe.evaluation.run import evaluate, longest_answer, score
from lynx_moe.evaluation.sheet import evaluation_sheet
from lynx_moe.evaluation.token_text import spoken

__all__ = [
    "Answered",
    "Generated",
    "MEASURES",
    "Temperature",
    "agreement",
    "answer_ends",
    "box_confidences",
    "brier",
    "calibration_report",
    "compare",
    "evaluate",
    "evaluation_sheet",
    "expected_calibration_error",
    "generate_answers",
    "longest_answer",
    "mcnemar_p",
    "normalise",
    "print_report",
    "prompt_batches",
    "reliability",
    "report_table",
    "score",
    "spoken",
]
