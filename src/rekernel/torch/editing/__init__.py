"""Change a model as its plan says."""
