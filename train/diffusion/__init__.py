"""Diffusion; torch and the standard library only."""
