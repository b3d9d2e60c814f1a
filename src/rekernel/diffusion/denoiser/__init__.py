"""What a denoiser of diffusers is and how it is called."""
