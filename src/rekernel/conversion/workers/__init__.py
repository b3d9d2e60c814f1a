"""Share a conversion out among threads, processes and machines: one task for each file of weights."""
