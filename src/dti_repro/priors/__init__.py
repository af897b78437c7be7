"""Negative log priors on the learned vectors, added to the loss."""
