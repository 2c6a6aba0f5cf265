"""Model scorers over real, tiny models: what they give, what a version depends on, refusals."""

import numpy as np
import pytest
import safetensors.torch
import torch
import transformers
from PIL import Image
from pydantic import ValidationError

from infra.errors import ConfigError
from pipelines.scores.config import ModelScorer, ScoreSettings
from pipelines.scores.scorers import Scorer, check, version_of
from tests.pipelines.scores.models import WIDTH, head, tiny_classifier, tiny_clip
from tests.pipelines.scores.pictures import textured


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return tiny_classifier(tmp_path_factory.mktemp("vit"))


@pytest.fixture(scope="module")
def frames():
    return [textured(kind, 3, 48, 64)[None].repeat(2, 0) for kind in ("foliage", "discs", "waves")]


def by_hand(folder, clips):
    """Image vectors of the first frame of each clip, computed without our code."""
    model = transformers.CLIPModel.from_pretrained(folder)
    images = transformers.AutoImageProcessor.from_pretrained(folder)
    pixels = images([Image.fromarray(c[0]) for c in clips], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        found = model.visual_projection(model.vision_model(pixels).pooler_output)
    return found / found.norm(dim=-1, keepdim=True)


def test_a_head_is_applied_layer_after_layer(clip, frames, tmp_path):
    file = head(tmp_path / "head.safetensors", (8, WIDTH), (1, 8))
    scorer = ModelScorer(model=clip, head=file, activation="relu")
    weights = safetensors.torch.load_file(file)
    hidden = by_hand(clip, frames) @ weights["layers.0.weight"].T + weights["layers.0.bias"]
    expected = hidden.relu() @ weights["layers.2.weight"].T + weights["layers.2.bias"]
    assert Scorer(scorer, "cpu").values(frames) == pytest.approx(expected[:, 0].tolist(), abs=1e-4)


def test_prompts_share_one_probability_with_what_stands_against_them(clip, frames):
    ask = {"model": clip, "how": "prompts", "name": "nice"}
    scorer = ModelScorer(**ask, prompts=("a nice picture", "a flower"), against=("blood",))
    other = ModelScorer(**ask, prompts=("blood",), against=("a nice picture", "a flower"))
    values, rest = Scorer(scorer, "cpu").values(frames), Scorer(other, "cpu").values(frames)
    assert np.add(values, rest) == pytest.approx(1.0)
    assert all(0 < value < 1 for value in values)
    assert len({round(value, 6) for value in values}) == 3


def test_a_label_has_the_probability_that_the_classifier_gives_it(classifier, frames):
    of = {"model": classifier, "how": "label"}
    unsafe = Scorer(ModelScorer(**of, label="unsafe"), "cpu").values(frames)
    fine = Scorer(ModelScorer(**of, label="fine"), "cpu").values(frames)
    assert np.add(unsafe, fine) == pytest.approx(1.0)
    assert unsafe[0] != pytest.approx(unsafe[1])


def test_the_vector_of_a_clip_has_length_one(clip, frames):
    found = Scorer(ModelScorer(model=clip, how="vectors"), "cpu").vectors(frames)
    assert found.shape == (3, WIDTH)
    assert np.linalg.norm(found.astype(float), axis=1) == pytest.approx(1.0, abs=1e-2)
    assert found.astype(float) == pytest.approx(by_hand(clip, frames).numpy(), abs=1e-3)


def test_what_must_not_appear_counts_by_its_worst_frame(classifier):
    mixed = np.stack([textured("plain", 1, 48, 64), textured("discs", 1, 48, 64)])
    scored = {}
    for over in ("mean", "most", "least"):
        scorer = ModelScorer(model=classifier, how="label", label="unsafe", over_frames=over)
        (scored[over],) = Scorer(scorer, "cpu").values([mixed])
    assert scored["least"] < scored["mean"] < scored["most"]
    assert scored["mean"] == pytest.approx((scored["least"] + scored["most"]) / 2)


def test_a_version_follows_what_the_values_depend_on(clip, tmp_path):
    file = head(tmp_path / "head.safetensors", (1, WIDTH))
    scorer = ModelScorer(model=clip, head=file)
    version = version_of(scorer)
    assert version_of(scorer.model_copy(update={"name": "other"})) == version
    assert version_of(scorer.model_copy(update={"num_frames": 5})) != version
    head(tmp_path / "head.safetensors", (1, WIDTH), seed=9)
    assert version_of(scorer) != version


def test_a_copy_of_the_weights_is_the_same_version_and_others_are_not(clip, tmp_path):
    same, other = tiny_clip(tmp_path / "same"), tiny_clip(tmp_path / "other", seed=7)
    ask = {"how": "vectors", "name": "v"}
    assert version_of(ModelScorer(model=same, **ask)) == version_of(ModelScorer(model=clip, **ask))
    assert version_of(ModelScorer(model=other, **ask)) != version_of(ModelScorer(model=clip, **ask))


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        (((1, 8),), "width"),
        (((2, WIDTH),), "one number"),
        (((8, WIDTH), (1, 4)), "one number"),
    ],
)
def test_a_head_that_does_not_fit_is_refused_by_shape(clip, frames, tmp_path, shapes, words):
    scorer = ModelScorer(model=clip, head=head(tmp_path / "h.safetensors", *shapes))
    with pytest.raises(ConfigError, match=words):
        Scorer(scorer, "cpu").values(frames)


def test_a_head_that_is_no_safetensors_file_is_refused(clip, tmp_path):
    (tmp_path / "h.pt").write_bytes(b"\x80\x04pickle")
    with pytest.raises(ConfigError, match="no safetensors"):
        check(ModelScorer(model=clip, head=str(tmp_path / "h.pt")))
    with pytest.raises(ConfigError, match="cannot be read"):
        check(ModelScorer(model=clip, head=str(tmp_path / "gone")))


def test_pickled_weights_are_not_loaded(classifier, tmp_path):
    model = transformers.ViTForImageClassification.from_pretrained(classifier)
    model.config.save_pretrained(tmp_path)
    transformers.AutoImageProcessor.from_pretrained(classifier).save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    scorer = ModelScorer(model=str(tmp_path), how="label", label="unsafe")
    with pytest.raises(ConfigError, match="safetensors"):
        Scorer(scorer, "cpu")


def test_a_label_that_the_model_has_not_is_refused_with_those_it_has(classifier):
    with pytest.raises(ConfigError, match=r"fine.*unsafe"):
        check(ModelScorer(model=classifier, how="label", label="nsfw"))


def test_a_model_that_is_nowhere_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be loaded"):
        check(ModelScorer(model="no/such-model", how="vectors"))
    with pytest.raises(ConfigError, match="model is empty"):
        check(ModelScorer(how="vectors"))


def test_a_classifier_has_no_vectors(classifier):
    with pytest.raises(ConfigError, match="no image vectors"):
        Scorer(ModelScorer(model=classifier, how="vectors"), "cpu")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"how": "head"}, "needs `head`"),
        ({"how": "prompts", "prompts": ("x",)}, "needs `prompts` and `against`"),
        ({"how": "label"}, "needs `label`"),
        ({"how": "vectors", "name": "motion"}, "name of a signal score"),
    ],
)
def test_settings_say_what_is_missing(given, words):
    with pytest.raises(ValidationError, match=words):
        ModelScorer(model="x", **given)


def test_two_scorers_of_one_name_are_refused():
    with pytest.raises(ValidationError, match="aesthetic"):
        ScoreSettings(models=(ModelScorer(), ModelScorer()))
