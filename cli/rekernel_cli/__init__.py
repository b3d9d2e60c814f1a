"""The command `rekernel`: reads options, calls the library, prints. One file per command; no logic of its own."""
