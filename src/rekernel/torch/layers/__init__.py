"""Layers that replace those of the model."""
