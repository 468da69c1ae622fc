"""Many runs on one page: grounding against retention, who uses the gates, and which run to take.

>>> from lynx_moe.report import paired_interval
>>> paired_interval(0, 0, 100)
(0.0, 0.0)
"""

from lynx_moe.interval import paired_interval
from lynx_moe.report.cards import Run, find_runs
from lynx_moe.report.page import report
from lynx_moe.report.picking import Pick, pick
from lynx_moe.report.points import Point, front, points

__all__ = ["Pick", "Point", "Run", "find_runs", "front", "paired_interval", "pick", "points", "report"]
