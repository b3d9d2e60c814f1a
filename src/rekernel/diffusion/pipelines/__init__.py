"""Guidance recorded in pipeline folders: written, read, attached on loading."""
