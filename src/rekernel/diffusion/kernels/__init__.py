"""Rescaled kernels switched by time: their settings and the hook that lends them."""
