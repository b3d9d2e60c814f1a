"""Tell whether a rescaled model does what was promised: by its functions on the larger grid, and by running it."""
