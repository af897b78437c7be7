"""Weights of the denoiser that are trained together with a word: LoRA, OFT, or none."""
