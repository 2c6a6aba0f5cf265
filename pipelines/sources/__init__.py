"""Where media comes from, and what is new there."""
