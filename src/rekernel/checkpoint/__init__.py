"""Find, read and write checkpoint files on the local disk."""
