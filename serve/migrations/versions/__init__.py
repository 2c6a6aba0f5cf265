"""One file per version of the job table."""
