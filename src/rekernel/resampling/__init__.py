"""The mathematics of resampling: filters, matrices, geometry. Arrays go in, arrays come out."""
