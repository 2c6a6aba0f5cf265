"""Parting the words of a command line, on a small tree of settings."""

import pytest

from infra.config import Settings, load
from infra.errors import ConfigError
from pipelines.flags import explain, parse


class Picture(Settings):
    """Section."""

    size: int = 4
    """Pixels."""
    kinds: tuple[str, ...] = ("png",)
    """Files."""
    seed: int = 0
    """Of the picture."""
    json_: bool = False
    """For a program."""


class Tree(Settings):
    """Root."""

    name: str = "run"
    """Name."""
    seed: int = 0
    """Of the run."""
    picture: Picture = Picture()
    """What is drawn."""


def read(*words):
    found = parse(words, Tree, ("picture",))
    return found.operands, load(Tree, found.rest, given=found.given)


def test_a_short_flag_speaks_of_its_section():
    assert read("--size", "8")[1].picture.size == 8


def test_of_two_settings_with_one_name_the_commands_own_is_meant():
    _, tree = read("--seed", "7")
    assert (tree.seed, tree.picture.seed) == (0, 7)


def test_general_flags_keep_their_meaning():
    _, tree = read("--name", "mine", "--picture.size=9")
    assert (tree.name, tree.picture.size) == ("mine", 9)


def test_operands_may_stand_between_flags():
    operands, tree = read("one", "--size", "8", "two", "--name", "mine", "three")
    assert operands == ["one", "two", "three"]
    assert (tree.picture.size, tree.name) == (8, "mine")


def test_a_flag_of_many_values_takes_all_that_follow():
    operands, tree = read("one", "--kinds", "png", "gif", "--size=8")
    assert operands == ["one"]
    assert tree.picture.kinds == ("png", "gif")


def test_a_value_may_begin_with_hyphens_after_an_equals_sign():
    assert read("--kinds=--odd")[1].picture.kinds == ("--odd",)


def test_words_behind_two_hyphens_are_operands():
    operands, tree = read("--size", "8", "--", "-5 degrees", "--odd")
    assert operands == ["-5 degrees", "--odd"]
    assert tree.picture.size == 8


def test_a_word_that_begins_with_a_hyphen_is_refused_with_a_way_out():
    with pytest.raises(ConfigError, match=r"unknown flag '-5 degrees'; .* behind a --"):
        read("-5 degrees")


def test_hyphens_and_underscores_are_one():
    class Long(Settings):
        width_px: int = 1

    class Root(Settings):
        long: Long = Long()

    for flag in ("--width-px", "--width_px"):
        assert parse([flag, "3"], Root, ("long",)).given == {"long": {"width_px": "3"}}


def test_a_flag_that_is_known_nowhere_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="unknown flag '--sise'; did you mean '--size'"):
        read("--sise", "3")


def test_the_file_is_beaten_by_the_flags(tmp_path):
    (tmp_path / "my.yaml").write_text("picture: {size: 5, seed: 6}\n")
    _, tree = read("--config", str(tmp_path / "my.yaml"), "--size", "8")
    assert (tree.picture.size, tree.picture.seed) == (8, 6)


def test_the_help_says_kind_meaning_and_default():
    lines = explain(Tree, ("picture",)).splitlines()
    assert lines[0] == "What is drawn."
    assert lines[1].split() == ["--size", "INT", "Pixels.", "[4]"]
    assert lines[2].split() == ["--kinds", "TEXT", "...", "Files.", "[png]"]


@pytest.mark.parametrize(
    ("words", "json", "operands"),
    [
        (["--json", "one"], True, ["one"]),
        (["--json", "false", "one"], False, ["one"]),
        (["--json=true"], True, []),
        (["one", "--json"], True, ["one"]),
    ],
)
def test_a_yes_or_no_flag_alone_says_yes(words, json, operands):
    found, tree = read(*words)
    assert (tree.picture.json_, found) == (json, operands)


def test_help_may_be_of_some_keys_only():
    text = explain(Tree, ("picture",), ("size", "json_"))
    assert "--json BOOL" in text
    assert "--kinds" not in text
