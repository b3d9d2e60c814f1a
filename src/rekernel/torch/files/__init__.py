"""Save rescaled models, and load their weights into models of the trained size."""
