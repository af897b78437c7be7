"""What the norm of a word's vector does inside a text encoder: measurements, figures and a page, for any backbone."""
