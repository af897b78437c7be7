"""From learned vectors to pictures."""
