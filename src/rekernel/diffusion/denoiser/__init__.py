"""Reading a diffusers denoiser: its config and scheduler, its calls, the hooks on it and its rescaled layers."""
