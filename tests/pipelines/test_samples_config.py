from pipelines.samples_config import SampleSettings


def test_no_two_videos_share_a_seed_and_every_prompt_comes_as_often_as_asked():
    wanted = SampleSettings(prompts=("a", "b"), per_prompt=2, seed=5).wanted()
    assert wanted == [("a", 5), ("b", 6), ("a", 7), ("b", 8)]
