"""Ray Serve replicas that sample, behind an HTTP API."""
