"""The whole application on Ray Serve: replicas that die, bad settings at the start."""

import socket

import pytest

from infra.errors import ConfigError
from serve import app
from serve.config import ServeSettings


def test_a_port_in_use_is_refused_by_its_setting():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(ConfigError, match=r"serve\.port: 127\.0\.0\.1:\d+ cannot be listened"):
            app.check_port(*other.getsockname())


def test_the_default_address_is_loopback():
    assert ServeSettings().host == "127.0.0.1"
