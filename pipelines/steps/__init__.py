"""One step of ingest per file; each is a plain function on rows."""
