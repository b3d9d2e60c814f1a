"""Change a model as its plan says, or not at all."""
