"""The ground floor: config, errors, logs, storage, tracking, cluster."""
