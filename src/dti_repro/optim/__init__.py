"""Optimizers of unit vectors, and the sphere's geometry."""
