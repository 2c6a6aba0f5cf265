"""Captions: write what is missing, with provenance."""
