"""Make a plan from a trace."""
