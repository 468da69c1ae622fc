"""Training signals, one file each: pure functions of the logits at the positions that predict an answer token.

Shapes: `T` answer tokens, `V` vocabulary.
"""
