"""Positions of a transformer above its trained size: frequencies, temperature, the hook that lends both to calls."""
