"""The top floor: what runs, in which order."""
