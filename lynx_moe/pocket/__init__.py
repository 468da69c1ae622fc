"""The embedded default base: a small real VLM that names, counts, compares and describes, and has never seen a box."""

from pathlib import Path


def path() -> Path:
    """Folder of the shipped weights, processor and card, as `from_pretrained` takes it."""
    return Path(__file__).parent / "weights"
