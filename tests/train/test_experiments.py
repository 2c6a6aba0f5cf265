"""The experiments' command, their measures and the rule by which a claim is shown."""

import json
import math
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from train.experiments import report
from train.experiments.__main__ import main
from train.experiments.claims import BASELINE, CLAIMS, VARIANTS, needed
from train.experiments.measures import Basis, flicker, frechet, judged
from train.experiments.sweep import Job, read
from train.experiments.training import Budget, Feed
from train.experiments.trial import denoising_error
from train.experiments.world import library, prompts
from train.model.presets import PRESETS

TINY = ("latents", "--seeds", "1", "--jobs", "1", "--steps", "2", "--samples", "4")
LITTLE = Budget(steps=2, videos=2, stills=2)


def command(*words):
    return [sys.executable, "-m", "train.experiments", *map(str, words)]


def standardised(rows=500, columns=2):
    """Points whose sample mean is 0 and whose sample covariance is 1, up to rounding."""
    points = np.random.default_rng(0).standard_normal((rows, columns))
    points -= points.mean(0)
    return points @ np.linalg.inv(np.linalg.cholesky(np.cov(points.T)).T)


def runs(*values, name="fid"):
    return [{"measures": {"fid": 1.0, "fvd": 1.0, "still_fid": 1.0, name: v}} for v in values]


# The Fréchet distance and the other measures


def test_the_distance_of_two_normal_distributions_is_the_closed_one():
    points = standardised()
    first, second = np.array([[2.0, 0.5], [0.0, 1.0]]), np.array([[1.0, 0.0], [0.7, 3.0]])
    one, two = first @ first.T, second @ second.T
    product = one @ two
    overlap = math.sqrt(np.trace(product) + 2 * math.sqrt(np.linalg.det(product)))
    expected = 3**2 + 4**2 + np.trace(one) + np.trace(two) - 2 * overlap
    assert frechet(points @ first.T, points @ second.T + [3, 4]) == pytest.approx(expected, 1e-9)


def test_a_distribution_has_no_distance_from_itself():
    points = standardised()
    assert frechet(points, points) == pytest.approx(0, abs=1e-9)


def test_features_show_what_the_components_leave_out():
    flat = np.random.default_rng(0).standard_normal((60, 40)) * ([1.0] * 16 + [0.0] * 24)
    basis = Basis.fit(flat)
    off = flat[:1] + 3 * np.eye(40)[39]
    assert basis.features(flat)[:, -1] == pytest.approx(0, abs=1e-9)
    assert basis.features(off)[0, -1] * basis.scale == pytest.approx(3)


def test_steady_motion_does_not_flicker():
    frames = np.arange(8.0).reshape(1, 1, 8, 1, 1) * np.ones((1, 3, 1, 4, 4))
    frames[:, :, 5] += 1
    assert flicker(frames) == pytest.approx((1 + 2 + 1) / 6)


def test_the_judge_sees_what_real_clips_show():
    real = library(24, 11, still=False)
    assert judged(real.clips.double().numpy(), real.shown) == {"colour": 1, "direction": 1}


@pytest.mark.parametrize("name", ["baseline", "sigma-in-1", "sigma-data-half"])
def test_a_network_that_knows_the_clip_makes_no_denoising_error(name):
    edm, asked = VARIANTS[name].edm, library(4, 12, still=False)

    def knows(x_in, c_noise, cond, latents=None):
        sigma = (4 * c_noise).exp()
        x_s = x_in / edm.c_in(sigma[0])
        noise = (x_s - asked.clips / edm.sigma_in) / sigma[0]
        return edm.target(asked.clips, noise, sigma), None

    assert denoising_error(knows, VARIANTS[name], asked) == pytest.approx(0, abs=1e-4)


# What both sides of a claim share


def test_the_baseline_is_the_smallest_preset_on_smaller_frames():
    micro, kept = PRESETS["micro"].to_dict(), BASELINE.to_dict()
    other = {"height", "width", "inside_height", "text_width", "dropout"}
    assert {k for k in micro if micro[k] != kept[k]} == other


def test_every_variant_but_the_baseline_changes_one_thing():
    base = VARIANTS["baseline"]
    parts = ("fit", "edm", "images", "self_conditioning")
    changes = [sum(getattr(v, p) != getattr(base, p) for p in parts) for v in VARIANTS.values()]
    assert changes == [0, *[1] * (len(VARIANTS) - 1)]


def test_all_variants_train_on_the_same_clips_and_noise_levels():
    batches = [Feed(v, 3, LITTLE).batch(1) for v in VARIANTS.values()]
    assert all(torch.equal(clips, batches[0][0]) for clips, _, _ in batches)
    assert all(torch.equal(draws.sigma, batches[0][2].sigma) for _, _, draws in batches)


def test_another_seed_trains_on_other_clips():
    one, two = (Feed(VARIANTS["baseline"], seed, LITTLE).batch(0)[0] for seed in (0, 1))
    assert not torch.equal(one, two)


@pytest.mark.parametrize(("name", "shared"), [("baseline", False), ("single-images", True)])
def test_only_single_images_share_their_noise_over_time(name, shared):
    noise = Feed(VARIANTS[name], 0, LITTLE).batch(0)[2].noise
    assert [torch.equal(n[:, :1].expand_as(n), n) for n in noise] == [False, False, shared, shared]


def test_a_still_has_no_word_for_motion_and_an_infinite_framerate():
    cond = prompts(library(3, 0, still=True).shown)
    assert cond.text_mask.sum(1).tolist() == [4, 4, 4]
    assert cond.framerate.tolist() == [0, 0, 0]


# The rule


@pytest.mark.parametrize(
    ("better", "worse", "sign"),
    [
        ((1, 2, 3), (7, 8, 9), 1),
        ((7, 8, 9), (1, 2, 3), -1),
        ((1, 2, 3), (2.9, 8, 9), 0),  # values overlap
        ((0, 10), (10.1, 20), 0),  # within two standard errors: 10.05 against 14
        ((1,), (9,), 0),  # one seed shows nothing
    ],
)
def test_variants_differ_only_where_seeds_and_errors_agree(better, worse, sign):
    assert report.compare(better, worse) == sign


@pytest.mark.parametrize(
    ("better", "worse", "expected"),
    [
        (runs(1, 2, 3), runs(7, 8, 9), "shown"),
        (runs(7, 8, 9), runs(1, 2, 3), "opposite"),
        (runs(1, 2, 3), runs(1, 2, 3), "not shown"),
    ],
)
def test_a_claim_is_shown_by_its_measures(better, worse, expected):
    assert report.verdict(CLAIMS["latents"], better, worse) == expected


def test_a_claim_that_wins_one_measure_and_loses_another_is_mixed():
    better, worse = runs(1, 2, 3), runs(7, 8, 9)
    for rows, value in ((better, 5), (worse, 0)):
        for i, row in enumerate(rows):
            row["measures"]["fvd"] = value + 0.01 * i
    assert report.verdict(CLAIMS["latents"], better, worse) == "mixed"


def test_measures_that_a_claim_does_not_name_do_not_decide_it():
    better, worse = runs(1, 2, 3, name="flicker"), runs(7, 8, 9, name="flicker")
    assert report.verdict(CLAIMS["latents"], better, worse) == "not shown"


MEASURES = {"fid": 1.0, "fvd": 2.0, "still_fid": 3.0, "flicker": 0.5, "colour": 1.0, "error": 0.25}


def made(name, *values):
    """Runs of one variant whose measure `name` has these values."""
    return [
        {"measures": MEASURES | {"direction": 0.5, name: v}, "parameters": 1234, "train_s": 50.0}
        for v in values
    ]


def test_a_table_shows_mean_and_spread():
    assert report.line("baseline", made("direction", 0.5, 0.7)) == (
        "| baseline | 1.000 ± 0.000 | 2.000 ± 0.000 | 3.000 ± 0.000 | 0.500 ± 0.000 "
        "| 100 ± 0 % | 60 ± 14 % | 0.250 ± 0.000 | 1,234 | 50 |"
    )


def test_a_claim_without_runs_of_one_side_is_not_decided():
    text = report.section(CLAIMS["latents"], {"baseline": made("fid", 1, 2)}, made("fid", 0))
    assert text.endswith("not decided: runs are missing\n")


def test_the_summary_tells_what_samples_say_from_what_the_error_says():
    rows = {"baseline": made("error", 0.1, 0.11), "latents-4": made("error", 0.2, 0.21)}
    text = report.summary([CLAIMS["latents"]], rows, made("fid", 0))
    assert text.endswith("| more latents beat fewer | not shown | shown |\n")


# The command


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A sweep of two runs that was killed after the first, and was then called again."""
    out = tmp_path_factory.mktemp("experiments")
    begun = subprocess.Popen(command(*TINY, "--out", out), stderr=subprocess.DEVNULL)
    while not (first := list(out.glob("*.json"))):
        assert begun.poll() is None, "the sweep ended before its first run"
        time.sleep(0.02)
    os.kill(begun.pid, signal.SIGKILL)
    begun.wait()
    written = first[0].stat().st_mtime_ns
    again = subprocess.run(
        command(*TINY, "--out", out), capture_output=True, text=True, timeout=300, check=False
    )
    return out, first[0], written, again


def test_a_killed_sweep_keeps_its_finished_runs(killed):
    _, first, written, _ = killed
    assert first.stat().st_mtime_ns == written


def test_a_killed_sweep_goes_on_to_its_verdict(killed):
    _, _, _, again = killed
    assert "**not shown** (by toy-FID and toy-FVD; seeds a side: 1)" in again.stdout, again.stderr


def test_a_run_says_what_it_was_made_with(killed):
    row = json.loads(killed[1].read_text())
    assert row["budget"]["steps"] == 2
    assert {"commit", "machine", "finished", "train_s", "parameters"} <= set(row)


def test_a_dry_run_lists_what_is_done_and_what_is_not(killed, capsys):
    main(["latents", "patches", *TINY[1:], "--out", str(killed[0]), "--dry-run"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["done", "done", "to", "1"]


def test_a_file_that_no_run_wrote_is_refused_by_name(tmp_path):
    job = Job(VARIANTS["baseline"], 0, Budget(), tmp_path)
    job.path.write_text("{}")
    with pytest.raises(Exception, match=rf"{job.path.name}: not the result of a run.*delete it"):
        read(job)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["latent"], "unknown claim 'latent'; did you mean 'latents'?"),
        (["latents", "--seeds", "0"], "--seeds 0: give 1 or more"),
    ],
)
def test_a_bad_word_is_refused_before_anything_runs(words, message, capsys):
    assert main(words) == 2
    assert capsys.readouterr().err == f"train.experiments: {message}\n"


def test_variants_of_several_claims_run_once():
    names = [v.name for v in needed(CLAIMS.values())]
    assert len(names) == len(set(names)) == len(VARIANTS)
