"""What differs between model families: where the decoder's FFN blocks are, and how a family writes boxes."""
