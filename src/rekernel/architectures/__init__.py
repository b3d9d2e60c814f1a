"""Recognise the architecture of a model from the names and shapes of the tensors."""
