"""The footage of benchmarks: as many files as asked for, of which no two are the same."""

import av

from infra.bench import footage


def test_files_differ_though_their_scenes_are_few(tmp_path):
    kind = footage.Kind(64, 48, scene_s=1, num_scenes=2)
    paths = footage.make(tmp_path, 5, scenes_per_file=1, kind=kind)
    assert len({path.read_bytes() for path in paths}) == 5
    with av.open(str(paths[4])) as container:
        assert sum(1 for _ in container.decode(video=0)) == footage.FPS
