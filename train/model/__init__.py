"""Networks; torch and the standard library only."""
