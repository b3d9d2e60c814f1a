"""Save rescaled models and load them again."""
