"""The small dataset on a local disk and in S3."""

import pytest

from tests.pipelines.datasets.corpora import fill


@pytest.fixture
def local(tmp_path):
    return fill(str(tmp_path / "data"))


@pytest.fixture(params=["local", "s3"])
def corpus(request, tmp_path):
    if request.param == "local":
        return fill(str(tmp_path / "data"))
    return fill(request.getfixturevalue("s3") + "/corpus")
