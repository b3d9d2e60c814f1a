"""Where a source lies: a path on this disk or an address on the Hugging Face Hub."""
