"""Checkpoint files on this disk: how they are found, read and written."""
