"""Upsample guidance: its settings and the hook that adds it to a denoiser."""
