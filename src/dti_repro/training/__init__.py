"""From photos to learned vectors."""
