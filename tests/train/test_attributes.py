"""The words of the demo's corpus: captions say all, parsing reads all back."""

import pytest

from train.metrics.attributes import (
    CHOICES,
    COLOURS,
    NUM_TEMPLATES,
    Attributes,
    agreement,
    caption,
    combinations,
    is_held_out,
    parse,
    stills,
)

CLIP = Attributes("red", "circle", "large", "left", "slowly", "plain charcoal")


def test_a_caption_reads_as_english():
    assert caption(CLIP) == "a large red circle moves left slowly over a plain charcoal background"


@pytest.mark.parametrize("template", range(NUM_TEMPLATES))
def test_parsing_reads_back_every_caption(template):
    everything = [*combinations(held_out=False), *combinations(held_out=True), *stills()]
    assert all(parse(caption(one, template)) == one for one in everything)


def test_what_a_text_does_not_say_is_none():
    assert parse("a Red balloon, going LEFT") == Attributes(colour="red", direction="left")


def test_a_prompt_without_speed_has_no_gap():
    prompt = caption(Attributes("red", "circle", "large", "left", None, "plain charcoal"))
    assert prompt == "a large red circle moves left over a plain charcoal background"


def test_agreement_asks_only_for_what_the_truth_has():
    assert agreement(Attributes(colour="red", size="small"), CLIP) == {
        "colour": True,
        "size": False,
    }


def test_one_combination_in_six_is_held_out():
    assert len(list(combinations(held_out=True))) * 5 == len(list(combinations(held_out=False)))


def test_every_pair_of_values_is_still_rendered():
    seen = {(c.colour, c.direction) for c in combinations(held_out=False)}
    assert len(seen) == len(COLOURS) * len(CHOICES["direction"])
    assert not any(is_held_out(one) for one in stills())
