"""Open a source: a path on this disk, or an address on the Hugging Face Hub."""
