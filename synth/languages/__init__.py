"""Every word that records are written with: one data file for each language, and the grammar that fills it in."""

from synth.languages.pack import LANGUAGES, Pack, load_pack
from synth.languages.say import Say

__all__ = ["LANGUAGES", "Pack", "Say", "load_pack"]
