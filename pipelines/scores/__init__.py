"""What is measured of clips, and which clips count by it: scores, filters, near doubles."""
