"""Data that training and evaluation read, and its download."""
