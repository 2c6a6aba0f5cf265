"""Benchmarks: how fast and how large things are here; run by hand, imported by nobody."""
