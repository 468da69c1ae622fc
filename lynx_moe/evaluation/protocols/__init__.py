"""Benchmarks in their own file formats, scored as their authors score them.

A new one is one file here with a class that `PROTOCOLS.register` files, and one line below.
"""

from lynx_moe.evaluation.protocols.base import PROTOCOLS, Item, Protocol, Reply, Row, Score, Write

__all__ = ["PROTOCOLS", "Item", "Protocol", "Reply", "Row", "Score", "Write"]
