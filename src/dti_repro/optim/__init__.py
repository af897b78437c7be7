"""Optimizers over rows of unit vectors."""
