"""The toybox's evaluators: attribute reader, subject encoder and CLIP scorer, with data and weights of their own."""
