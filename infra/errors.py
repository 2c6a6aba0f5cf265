"""Faults of the user: shown as one message, never as a traceback.

A message names the setting or file, the value received, what is accepted and the next step.
Faults of ours are assertions.
"""


class SnapvideoError(Exception):
    """Base of the errors that the command line prints without a traceback."""


class ConfigError(SnapvideoError):
    """A setting is unknown, malformed or cannot work here."""


class DataError(SnapvideoError):
    """A file, table or folder is not what it must be."""


class MissingError(DataError):
    """There is no such file."""


class ServiceError(SnapvideoError):
    """A service that a setting names (MLflow, S3, Ray, a port) does not answer as it must."""
