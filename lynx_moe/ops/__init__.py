"""Pure functions of tensors: no parameters, no state, no model.

Shape suffixes, for the whole package; after the last underscore each letter is one dimension:
`B` batch, `L` sequence, `T` tokens (`B*L`), `D` model width, `E` experts, `K` experts per token, `F` expert width,
`R` rows (`T*K` token-expert pairs), `G` gates per token.
"""
