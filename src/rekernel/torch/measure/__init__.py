"""Compare a rescaled model with its original."""
