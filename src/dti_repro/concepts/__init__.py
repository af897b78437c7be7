"""What is personalised: one subject or style, its photos and its class word. Light: no torch in here."""
