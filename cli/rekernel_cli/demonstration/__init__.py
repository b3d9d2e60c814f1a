"""The work of `rekernel demo`."""
