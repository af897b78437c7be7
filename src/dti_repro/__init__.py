"""Directional Textual Inversion, its rivals and their measurements."""
