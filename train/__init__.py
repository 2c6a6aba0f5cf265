"""The model, the diffusion and their training."""
