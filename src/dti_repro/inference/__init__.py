"""From learned vectors to images."""
