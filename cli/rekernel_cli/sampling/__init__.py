"""What `rekernel sample` runs."""
