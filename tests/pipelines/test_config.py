from importlib.util import find_spec
from pathlib import Path

import pytest

from infra.config import from_text, from_yaml, to_yaml
from pipelines.config import RunConfig

ROOT = Path(__file__).parents[2]
FILES = sorted(ROOT.glob("[!.]*/configs/*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_settings_file_of_the_project_loads_and_survives_being_resolved(path):
    config = from_yaml(RunConfig, str(path))
    assert config != RunConfig()
    assert from_text(RunConfig, to_yaml(config), "resolved") == config


def test_every_stage_with_settings_files_is_looked_at():
    assert {path.parts[-3] for path in FILES} == {"captioning", "pipelines", "serve", "train"}


@pytest.mark.parametrize("name", ["captioning", "infra", "pipelines", "serve", "train"])
def test_package_comes_from_this_checkout(name):
    spec = find_spec(name)
    assert spec is not None
    assert Path(str(spec.origin)).is_relative_to(ROOT)
