"""What rekernel tells its users beside results: notes as warnings, log lines, progress bars and short descriptions."""
