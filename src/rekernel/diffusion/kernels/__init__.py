"""Rescaled kernels while sampling: their settings and the hook that switches them on and off."""
