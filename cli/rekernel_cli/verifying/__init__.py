"""What `rekernel verify` runs."""
