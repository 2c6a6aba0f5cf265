"""Datasets on disk or S3: media shards, Delta tables, releases, manifests."""
