"""The work of `rekernel verify`."""
