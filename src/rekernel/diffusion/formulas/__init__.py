"""The formulas of upsample guidance: functions on arrays and numbers."""
