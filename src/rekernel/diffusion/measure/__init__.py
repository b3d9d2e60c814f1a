"""Measure a rescaled denoiser against the trained one."""
