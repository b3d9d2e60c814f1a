"""Cascades: sample at the trained size, then enlarge the sample and denoise it again, guided, stage by stage."""
