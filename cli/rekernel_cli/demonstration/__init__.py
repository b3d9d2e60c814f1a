"""What `rekernel demo` runs."""
