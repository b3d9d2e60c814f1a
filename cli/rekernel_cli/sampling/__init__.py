"""The work of `rekernel sample`."""
