"""Prints docs/protocols.md."""

from lynx_moe.evaluation.protocols.page import page

print(page(), end="")
