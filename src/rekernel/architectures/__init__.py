"""What a model is, told from the names and shapes of its tensors."""
