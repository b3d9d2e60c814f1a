"""Run a model once and record which layers see the image."""
