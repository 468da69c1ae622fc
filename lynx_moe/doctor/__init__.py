"""`lynx-moe doctor`: what a training is about to learn, shown and checked before it starts.

`doctor` takes the settings of `train.py`, loads what they name by the same function, and looks: pictures as the model
will see them with the targets drawn on them, token counts, the chat template with what is learned marked, memory and
time of a few real steps, and everything in the records that is wrong. It trains nothing that is kept.
"""

from lynx_moe.doctor.run import doctor

__all__ = ["doctor"]
