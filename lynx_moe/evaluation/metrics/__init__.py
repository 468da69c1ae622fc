"""Numbers of published benchmarks as plain functions of arrays, each after the code that its authors score with.

Shape letters: `F` found boxes, `M` true boxes ("marked"), `P` pictures or rows, 4 the corners x1, y1, x2, y2.
"""
