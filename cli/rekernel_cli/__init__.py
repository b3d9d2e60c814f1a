"""The command `rekernel`: read options, call the library, print results. One file per command."""
