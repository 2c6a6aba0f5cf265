"""What a stage trains, and the settings that cannot work."""

import pytest

from infra.errors import ConfigError
from train.blueprint import Blueprint
from train.config import DiffusionSettings, Preset, TrainSettings
from train.loop import learning_rate
from train.model.presets import PRESETS

LOWER = Blueprint.build(TrainSettings(preset="micro"), 16, None).to_config()
UNET = Blueprint.build(TrainSettings(preset="unet-micro"), 16, None)
TINY = Blueprint.build(TrainSettings(preset="tiny"), 32, None).to_config()


def test_the_settings_know_exactly_the_presets_there_are():
    assert set(Preset.__args__) == set(PRESETS)


def test_the_upsampler_scales_noise_by_its_width():
    up = Blueprint.build(TrainSettings(preset="micro-up"), 16, LOWER)
    assert up.edm.sigma_in == pytest.approx(4.0)
    assert up.low_shape == (3, 4, 12, 16)


@pytest.mark.parametrize(
    ("preset", "width", "below", "message"),
    [
        ("micro-up", 16, None, "is an upsampler and this is stage 1"),
        ("micro", 16, LOWER, "is no upsampler"),
        ("tiny-up", 16, LOWER, "frames 8"),
        ("micro-up", 32, LOWER, "text_width 32"),
        (
            "unet-micro",
            16,
            LOWER,
            "'unet-micro' is no upsampler and this is stage 2; use 'micro-up'",
        ),
        ("micro-up", 16, UNET.to_config(), "stage 1 is 'unet-micro', and U-Nets are first-stage"),
        ("demo-up", 32, TINY, "'demo-up' cannot grow from .* 'tiny': .*; use 'tiny-up'"),
    ],
)
def test_a_preset_of_the_wrong_stage_is_named(preset, width, below, message):
    with pytest.raises(ConfigError, match=message):
        Blueprint.build(TrainSettings(preset=preset), width, below)


def test_plain_edm_is_a_setting_that_reaches_the_checkpoint():
    plain = DiffusionSettings(sigma_in=1.0, sigma_data=0.5)
    edm = Blueprint.build(TrainSettings(diffusion=plain), 16, None).to_config()["edm"]
    assert (edm["sigma_in"], edm["sigma_data"]) == (1.0, 0.5)


def test_every_number_of_the_diffusion_reaches_the_checkpoint():
    asked = {"p_mean": 0.5, "p_std": 1.5, "sigma_min": 0.01, "sigma_max": 50.0}
    edm = Blueprint.build(TrainSettings(diffusion=DiffusionSettings(**asked)), 16, None)
    assert asked.items() <= edm.to_config()["edm"].items()


def test_images_are_videos_unless_the_ablation_is_asked_for():
    ablation = TrainSettings(diffusion=DiffusionSettings(images="still"))
    usual, still = (Blueprint.build(s, 16, None) for s in (TrainSettings(), ablation))
    assert usual.draws((1, 2), (False, True)).still is None
    assert still.draws((1, 2), (False, True)).still.tolist() == [False, True]


def test_a_network_without_latents_gets_no_first_pass():
    assert UNET.draws((1, 2), (False, False)).carry is None


def test_the_learning_rate_warms_up_and_ends_at_the_floor():
    settings = TrainSettings().optimizer.model_copy(update={"warmup_steps": 10, "lr_floor": 0.1})
    rates = [learning_rate(step, 1000, settings) for step in range(1000)]
    assert rates[0] == pytest.approx(settings.lr / 10, rel=1e-3)
    assert max(rates) == pytest.approx(settings.lr, rel=1e-2)
    assert rates[-1] == pytest.approx(0.1 * settings.lr, rel=1e-2)


def test_a_batch_that_the_workers_cannot_share_is_named():
    with pytest.raises(ValueError, match=r"batch_videos \(5\) must be a multiple"):
        TrainSettings(batch_videos=5, num_workers=2)
