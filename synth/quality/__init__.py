"""Looking at a dataset: what is in it, what can be guessed, what is there twice, and what must not be there at all."""
