"""synth belongs to the lynx-moe distribution: it makes grounding and understanding records, and needs no model.

>>> import synth
>>> manifest = synth.make(synth.Settings(out="outputs/data", task=["find_one"], size=100))  # doctest: +SKIP
"""

__version__ = "0.1.0"

from synth.settings import Settings
from synth.write import make

__all__ = ["Settings", "__version__", "make"]
