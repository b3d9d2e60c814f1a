"""Measure how far a rescaled model is from its original."""
