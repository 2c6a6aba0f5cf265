"""The benchmark of the reader runs and prints what it promises."""

import contextlib
import io
import re

import pytest

from infra.bench import reader


@pytest.mark.slow
def test_the_ratios_come_last_and_a_missing_peer_is_said():
    with contextlib.redirect_stdout(io.StringIO()) as screen:
        reader.main(["--clips", "72", "--rounds", "1"])
    *_, ratio, peer = screen.getvalue().splitlines()
    assert re.fullmatch(r"reader / bare: [\d.]+ by clock, [\d.]+ by processor .*0\.95\)", ratio)
    assert peer == "mosaicml-streaming was not measured: give --peer-python"
