"""The weights that are served: found by path, URI or registered name, checked, loaded.

`find` runs before anything is started and reads only the checkpoints' JSON, so that a wrong
setting is named at once; `load` runs in each replica.
"""

import hashlib
import math
from collections.abc import Callable

from infra import storage
from infra.errors import ConfigError, DataError
from serve.config import ModelSettings
from serve.generate import Generator, Stage
from serve.schema import ModelFacts, Served
