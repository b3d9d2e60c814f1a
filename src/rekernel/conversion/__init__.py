"""Writing a rescaled checkpoint: destinations, output files, streaming, journal."""
