"""Training signals, one file each.

On the answer's tokens they are pure functions of the logits at the positions that predict one (`T` answer tokens, `V`
vocabulary): `answer`, `retention`, `stepwise`. Beside the answer they are an `Objective` with a head of its own; a new
one is one file with a class that `OBJECTIVES.register` files, and one line below.
"""

from lynx_moe.objectives.base import OBJECTIVES, Objective
from lynx_moe.objectives.contrast import Contrast
from lynx_moe.objectives.distil import Distil
from lynx_moe.objectives.masks import Masks
from lynx_moe.objectives.prompts import Prompts
from lynx_moe.objectives.reconstruction import Reconstruction
from lynx_moe.objectives.regions import Regions

__all__ = ["OBJECTIVES", "Contrast", "Distil", "Masks", "Objective", "Prompts", "Reconstruction", "Regions"]
