"""One module for each command of `rekernel`."""
