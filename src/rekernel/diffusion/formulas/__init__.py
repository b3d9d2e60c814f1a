"""The formulas of upsample guidance: pure functions on arrays and numbers."""
