"""Near doubles: exact against brute force, one stays of each group, later clips add rows only."""

import itertools

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from infra.store.choose import chosen_clips
from infra.store.selection import Bound, Selection
from pipelines.datasets.counting import counting
from pipelines.scores.alike import by_phash, by_vectors, masks, num_blocks, pair_hashes
from pipelines.scores.clusters import label, scratch
from pipelines.scores.config import DoubleSettings, FilterSettings, ScoreSettings
from pipelines.scores.doubles import known_version, search

BASE = 0x5A96C3F00F3C695A  # half of the bits are ones
ANY = Selection()
HASHES = st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=12)
FLIPS = st.lists(st.lists(st.integers(0, 63), max_size=8), max_size=4)


def mark(*flipped):
    """The base hash with some bits flipped, as the clips table holds it."""
    bits = BASE
    for bit in flipped:
        bits ^= 1 << bit
    return f"{bits:016x}"


def far(index):
    """Hashes that lie far from each other and from the base."""
    bits = int("".join(np.random.default_rng(index).permutation(list("01" * 32))), 2)
    return f"{bits:016x}"


def run(corpus, selection=ANY, **more):
    method = by_phash(DoubleSettings(phash=True, memory_mib=256, **more))
    return search(corpus.dataset, selection, method, "run")


@settings(max_examples=25, deadline=None)
@given(HASHES, FLIPS, st.integers(0, 8))
def test_banding_finds_exactly_the_pairs_within_the_distance(hashes, flips, max_bits):
    for flipped in flips:
        bits = hashes[0]
        for bit in flipped:
            bits ^= 1 << bit
        hashes = [*hashes, bits]
    marks = sorted({f"{bits:016x}" for bits in hashes})
    with scratch(128) as db:
        db.execute("CREATE TABLE nodes (node BIGINT, kind TEXT, mark TEXT, fresh BOOLEAN)")
        rows = [(index, "video", text, True) for index, text in enumerate(marks)]
        db.executemany("INSERT INTO nodes VALUES (?, ?, ?, ?)", rows)
        db.execute("CREATE TABLE edges (a BIGINT, b BIGINT)")
        pair_hashes(db, max_bits)
        found = set(db.execute("SELECT a, b FROM edges").fetchall())
    pairs = itertools.combinations(range(len(marks)), 2)
    near = {
        (a, b) for a, b in pairs if (int(marks[a], 16) ^ int(marks[b], 16)).bit_count() <= max_bits
    }
    assert found == near


@given(st.integers(1, 12), st.integers(1, 5))
def test_any_choice_of_flipped_bits_leaves_one_mask_untouched(max_bits, more):
    chosen = np.random.default_rng(max_bits * more).choice(64, max_bits, replace=False)
    flipped = sum(1 << int(bit) for bit in chosen)
    assert any(mask & flipped == 0 for mask in masks(max_bits, max_bits + more))


@pytest.mark.parametrize("num_nodes", [10, 10**6, 10**9])
@pytest.mark.parametrize("max_bits", [1, 4, 12])
def test_there_are_always_more_blocks_than_bits_may_differ(num_nodes, max_bits):
    assert num_blocks(num_nodes, max_bits) > max_bits


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=25))
def test_groups_are_the_connected_components(edges):
    least = {node: node for edge in edges for node in edge if edge[0] != edge[1]}
    for _ in range(len(least)):
        for a, b in edges:
            if a != b:
                least[a] = least[b] = min(least[a], least[b])
    with scratch(128) as db:
        db.execute("CREATE TABLE edges (a BIGINT, b BIGINT)")
        if edges:
            db.executemany("INSERT INTO edges VALUES (?, ?)", edges)
        label(db)
        assert dict(db.execute("SELECT node, label FROM labels").fetchall()) == least


def test_a_long_chain_takes_few_rounds():
    with scratch(128) as db:
        db.execute("CREATE TABLE edges AS SELECT range AS a, range + 1 AS b FROM range(3000)")
        assert label(db) < 20
        assert db.execute("SELECT count(*), max(label) FROM labels").fetchone() == (3001, 0)


def test_of_near_doubles_the_largest_picture_stays_then_the_least_id(corpus):
    corpus.hashed({"b": mark(), "c": mark(1, 2)})
    corpus.hashed({"z": mark(1, 3)}, width=1280)
    corpus.hashed({"other": far(1), "a": far(2), "d": far(2)})
    found = run(corpus)
    assert corpus.left_out(found.version) == {"b": "z", "c": "z", "d": "a"}
    assert (found.num_compared, found.num_fresh, found.num_found) == (6, 6, 3)
    rows = {r["clip_id"]: r["distance"] for r in corpus.dataset.read("duplicates").to_pylist()}
    assert (rows["b"], rows["c"], rows["d"]) == (2.0, 2.0, 0.0)


def test_of_a_chain_exactly_one_stays(corpus):
    corpus.hashed({f"c{n}": mark(*range(2 * n)) for n in range(6)})
    found = run(corpus, max_bits=2)
    assert corpus.left_out(found.version) == {f"c{n}": "c0" for n in range(1, 6)}


def test_a_selection_leaves_doubles_out_and_keeps_who_stays(corpus):
    corpus.hashed({"a": mark(), "b": mark(1, 2), "c": far(1)})
    found = run(corpus)
    chosen = Selection(duplicate_versions=(found.version,))
    with chosen_clips(corpus.dataset, chosen, columns=["clip_id"]) as rows:
        assert rows.read_all()["clip_id"].to_pylist() == ["a", "c"]


def test_later_clips_add_rows_and_change_none(corpus):
    corpus.hashed({"b": mark(), "c": mark(1, 2)})
    first = run(corpus)
    before = corpus.dataset.read("duplicates").to_pylist()
    corpus.hashed({"a": mark(3, 4)}, width=4000)
    second = run(corpus)
    rows = corpus.dataset.read("duplicates").to_pylist()
    assert second.version == first.version
    assert second.num_fresh == 1
    assert [row for row in rows if row in before] == before
    assert corpus.left_out(second.version) == {"c": "b", "a": "b"}


def test_a_clip_that_ties_two_groups_leaves_one_of_all(corpus):
    corpus.hashed({"a": mark(), "b": mark(1), "x": mark(1, 2, 3, 4), "y": mark(1, 2, 3, 4, 5)})
    first = run(corpus, max_bits=2)
    assert corpus.left_out(first.version) == {"b": "a", "y": "x"}
    corpus.hashed({"m": mark(1, 2, 3)})
    second = run(corpus, max_bits=2)
    assert corpus.left_out(second.version) == {"b": "a", "y": "x", "m": "a", "x": "a"}


def test_nothing_new_writes_nothing(corpus):
    corpus.hashed({"a": mark(), "b": mark(1)})
    run(corpus)
    version = corpus.dataset.version("duplicates")
    again = run(corpus)
    assert (again.num_fresh, again.num_found) == (0, 0)
    assert corpus.dataset.version("duplicates") == version


def test_a_search_that_was_killed_is_done_again_with_the_same_outcome(corpus):
    corpus.hashed({"a": mark(), "b": mark(1), "c": mark(1, 2)})
    version = run(corpus, max_bits=2).version
    whole = corpus.dataset.read("duplicates").to_pylist()
    for row in whole:  # as if killed after the doubles and before who stays
        assert row["version"] == version
    left = [row for row in whole if row["clip_id"] != row["of_clip_id"]]
    other = type(corpus)(corpus.dataset.root + "-2")
    other.hashed({"a": mark(), "b": mark(1), "c": mark(1, 2)})
    other.dataset.append("duplicates", left[:1])
    run(other, max_bits=2)
    assert other.left_out(version) == corpus.left_out(version)


def test_when_who_stayed_vanishes_a_new_generation_keeps_another(corpus):
    corpus.hashed({"a": mark(), "b": mark(1), "c": far(1)})
    corpus.score("contrast", {"a": 0.5, "b": 0.5, "c": 0.5})
    corpus.dataset.append("sources", [source("a", "ok"), source("b", "ok"), source("c", "ok")])
    scope = Selection(source_root="root")
    first = run(corpus, scope)
    assert corpus.left_out(first.version) == {"b": "a"}
    corpus.dataset.append("sources", [source("a", "vanished")])
    second = run(corpus, scope)
    assert second.version != first.version
    assert corpus.left_out(second.version) == {}
    assert corpus.left_out(first.version) == {"b": "a"}
    assert run(corpus, scope).version == second.version


def source(clip, status):
    return {
        "source_uri": f"u-{clip}", "source_root": "root", "source_id": f"of-{clip}",
        "status": status,
    }  # fmt: skip


def test_what_is_compared_is_part_of_the_version(corpus):
    corpus.hashed({"a": mark(), "b": mark(1)})
    bounds = (Bound(scorer="width", version="clip", least=1),)
    versions = {
        run(corpus).version,
        run(corpus, max_bits=2).version,
        run(corpus, same_source=True).version,
        run(corpus, Selection(bounds=bounds)).version,
    }
    assert len(versions) == 4


def test_clips_of_one_source_count_only_where_asked(corpus):
    corpus.hashed({"a": mark(), "b": mark(1), "c": mark(1)}, source_id="one")
    assert corpus.left_out(run(corpus).version) == {}
    assert corpus.left_out(run(corpus, same_source=True).version) == {"b": "a", "c": "a"}


def test_clips_of_one_source_leave_with_a_double_of_another(corpus):
    corpus.hashed({"a": mark(), "b": mark(1)}, source_id="one")
    corpus.hashed({"c": mark(1)})
    assert corpus.left_out(run(corpus).version) == {"b": "a", "c": "a"}


def test_flat_pictures_are_not_compared(corpus):
    corpus.hashed({"a": mark(), "b": mark()}, detail=0.01)
    corpus.hashed({"c": "8000000000000000", "d": "8000000000000000"})
    corpus.clips({"clip_id": "e", "phash": mark()}, {"clip_id": "f", "phash": mark()})
    found = run(corpus)
    assert found.num_compared == 0
    assert corpus.left_out(found.version) == {}


def test_an_image_is_no_double_of_a_video(corpus):
    corpus.hashed({"a": mark()})
    corpus.hashed({"b": mark()}, kind="image")
    assert corpus.left_out(run(corpus).version) == {}


def vectors(corpus, found, encoder="enc"):
    rows = [
        {"clip_id": clip, "encoder_id": encoder, "width": len(v), "values": halves(v)}
        for clip, v in found.items()
    ]
    corpus.dataset.append("vectors", rows)


def halves(vector):
    vector = np.asarray(vector, np.float64)
    return (vector / np.linalg.norm(vector)).astype("<f2").tobytes()


def test_near_vectors_are_doubles(corpus):
    corpus.clips(*({"clip_id": clip} for clip in "abcd"))
    vectors(corpus, {"a": (1, 0, 0), "b": (1, 0.1, 0), "c": (0, 1, 0), "d": (0, 1, 1)})
    vectors(corpus, {"c": (1, 0, 0)}, encoder="other")
    options = DoubleSettings(vectors="clip", min_cosine=0.99, memory_mib=256)
    found = search(corpus.dataset, ANY, by_vectors(options, "enc"), "run")
    assert corpus.left_out(found.version) == {"b": "a"}
    rows = corpus.dataset.read("duplicates").to_pylist()
    (row,) = [row for row in rows if row["clip_id"] == "b"]
    assert row["distance"] == pytest.approx(1 - 1 / np.sqrt(1.01), abs=1e-3)
    assert row["method"] == "enc"


def test_vectors_in_several_blocks_give_what_brute_force_gives(corpus):
    chance = np.random.default_rng(5)
    centres = chance.normal(size=(120, 1024))
    near_to = [n % 20 if n < 100 else 20 + n % 100 for n in range(300)]  # large groups and pairs
    found = {
        f"c{n:03d}": centres[at] + 0.17 * chance.normal(size=1024) for n, at in enumerate(near_to)
    }
    corpus.clips(*({"clip_id": clip} for clip in found))
    vectors(corpus, found)
    options = DoubleSettings(vectors="clip", min_cosine=0.97, memory_mib=1)
    result = search(corpus.dataset, ANY, by_vectors(options, "enc"), "run")
    table = np.stack([np.frombuffer(halves(v), "<f2").astype(np.float64) for v in found.values()])
    table /= np.linalg.norm(table, axis=1, keepdims=True)
    least = np.arange(300)
    near = table @ table.T >= 0.97
    for _ in range(300):
        least = np.where(near, least[None], 999).min(axis=1)
    expected = {f"c{n:03d}": f"c{m:03d}" for n, m in enumerate(least) if n != m}
    assert corpus.left_out(result.version) == expected


def test_the_newest_search_by_a_method_is_known_whatever_it_compared(corpus):
    method = by_phash(DoubleSettings(phash=True, memory_mib=256))
    assert known_version(corpus.dataset, method) == ""
    corpus.hashed({"a": mark(), "b": mark(1)})
    first = run(corpus)
    assert known_version(corpus.dataset, method) == first.version
    second = run(corpus, Selection(kinds=("video",)))
    assert known_version(corpus.dataset, method) == second.version
    run(corpus, max_bits=2)
    assert known_version(corpus.dataset, method) == second.version


def test_settings_name_the_doubles_that_dataset_commands_leave_out(corpus):
    corpus.hashed({"a": mark(), "b": mark(1)})
    filters = FilterSettings(min_side_px=10, doubles=DoubleSettings(phash=True, memory_mib=256))
    found = counting(corpus.dataset.root, ScoreSettings(), filters, ("p",))
    assert (found.duplicate_versions, found.partitions) == ((), ("p",))
    version = run(corpus).version
    found = counting(corpus.dataset.root, ScoreSettings(), filters, ())
    assert found.duplicate_versions == (version,)
    assert len(found.bounds) == 2
