"""How clips are found to be alike: near perceptual hashes, near vectors.

Hashes: two of 64 bits that differ in at most k bits agree in all but k of any m blocks, so pairs
are found by equality of m - k blocks, for each choice of blocks (pigeonhole): exact, and the work
is a handful of joins. Vectors: exact search by blocks that fit into the memory given; the work is
(new clips) x (all clips), some 10^11 pairs an hour and core at width 512.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

import duckdb
import faiss
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from infra.errors import ConfigError
from pipelines.scores.clusters import row
from pipelines.scores.config import DoubleSettings
from pipelines.scores.doubles import Method
from pipelines.scores.versions import VERSIONS

_BITS = 64
_MIN_ONES, _MAX_ONES = 24, 40  # half of the bits are ones, unless most of the picture is equal
_PASS_COST = 4  # of one join over all nodes, in candidate pairs a node
_QUERIES = 256
_ROUNDING = 1e-6

Vectors = npt.NDArray[np.float32]


def methods(settings: DoubleSettings, versions: Mapping[str, str]) -> list[Method]:
    """Return the comparisons that the settings ask for.

    Args:
        settings: Which.
        versions: Scorer to version, where vectors of a model are compared.

    Raises:
        ConfigError: There is no such scorer.
    """
    found = [by_phash(settings)] if settings.phash else []
    if settings.vectors:
        if settings.vectors not in versions or settings.vectors in VERSIONS:
            known = sorted(set(versions) - set(VERSIONS)) or "none is set up"
            raise ConfigError(
                f"filter.doubles.vectors: no scorer {settings.vectors!r}; scores.models has "
                f"{known}; name one with how: vectors"
            )
        found.append(by_vectors(settings, versions[settings.vectors]))
    return found


def by_phash(settings: DoubleSettings) -> Method:
    """Return the comparison of perceptual hashes; flat pictures are not compared."""
    detail = VERSIONS["detail"]
    sql = (
        "SELECT p.clip_id, p.phash AS mark FROM clips p JOIN (SELECT DISTINCT clip_id FROM scores "
        "WHERE scorer = 'detail' AND version = ? AND value >= ?) e ON e.clip_id = p.clip_id "
        "WHERE regexp_full_match(p.phash, '[0-9a-f]{16}') "
        "AND bit_count(('0x' || p.phash)::UBIGINT) BETWEEN ? AND ?"
    )
    return Method(
        name="phash",
        identity=f"phash-1 bits={settings.max_bits} detail={detail}>={settings.min_detail}",
        sql=sql,
        parameters=(detail, settings.min_detail, _MIN_ONES, _MAX_ONES),
        pair=lambda db: pair_hashes(db, settings.max_bits),
        distance=hash_distances,
        same_source=settings.same_source,
        memory_mib=settings.memory_mib,
    )


def by_vectors(settings: DoubleSettings, encoder_id: str) -> Method:
    """Return the comparison of clip vectors of one encoder."""
    sql = 'SELECT clip_id, any_value("values") AS mark FROM vectors WHERE encoder_id = ? '
    return Method(
        name=encoder_id,
        identity=f"vectors-1 {encoder_id} cosine={settings.min_cosine}",
        sql=sql + "GROUP BY clip_id",
        parameters=(encoder_id,),
        pair=lambda db: pair_vectors(db, settings.min_cosine, settings.memory_mib),
        distance=vector_distances,
        same_source=settings.same_source,
        memory_mib=settings.memory_mib,
    )


def pair_hashes(db: duckdb.DuckDBPyConnection, max_bits: int) -> None:
    """Fill `edges` with the pairs of `nodes` whose hashes differ in at most `max_bits` bits."""
    db.execute(
        "CREATE OR REPLACE TABLE hashes AS "
        "SELECT node, kind, fresh, ('0x' || mark)::UBIGINT AS bits FROM nodes"
    )
    (count,) = row(db, "SELECT count(*) FROM hashes")
    if not max_bits:
        return  # equal hashes are one node
    for mask in masks(max_bits, num_blocks(int(count), max_bits)):
        db.execute(
            "INSERT INTO edges SELECT x.node, y.node FROM hashes x JOIN hashes y "
            "ON x.kind = y.kind AND x.bits & ?::UBIGINT = y.bits & ?::UBIGINT "
            "WHERE x.fresh AND (x.node < y.node OR NOT y.fresh) AND x.node <> y.node "
            "AND bit_count(xor(x.bits, y.bits)) <= ?",
            [mask, mask, max_bits],
        )


def num_blocks(num_nodes: int, max_bits: int) -> int:
    """Return into how many blocks hashes are best cut: more give more joins, but fewer candidates.

    Any number above `max_bits` gives the same pairs.
    """

    def cost(blocks: int) -> float:
        equal_bits = _BITS * (blocks - max_bits) / blocks
        return math.comb(blocks, max_bits) * (_PASS_COST + num_nodes / 2**equal_bits)

    return min(range(max_bits + 1, max_bits + 6), key=cost)


def masks(max_bits: int, blocks: int) -> Iterator[int]:
    """Yield the masks of all choices of `blocks - max_bits` blocks of the 64 bits."""
    edges = [round(index * _BITS / blocks) for index in range(blocks + 1)]
    parts = [(1 << high) - (1 << low) for low, high in itertools.pairwise(edges)]
    for chosen in itertools.combinations(parts, blocks - max_bits):
        yield sum(chosen)


def hash_distances(rows: pa.Table) -> pa.DoubleArray:
    """Return the numbers of differing bits of hexadecimal `mark` and `of_mark`."""
    pairs = zip(rows["mark"].to_pylist(), rows["of_mark"].to_pylist(), strict=True)
    return pa.array(
        [float((int(str(a), 16) ^ int(str(b), 16)).bit_count()) for a, b in pairs], pa.float64()
    )


def pair_vectors(db: duckdb.DuckDBPyConnection, min_cosine: float, memory_mib: int) -> None:
    """Fill `edges` with the pairs of `nodes` whose vectors have at least that cosine.

    A block of vectors lies in memory at a time, a quarter of what is given at most.
    """
    kinds = [str(kind) for (kind,) in db.execute("SELECT DISTINCT kind FROM nodes").fetchall()]
    for kind in sorted(kinds):
        (size_bytes,) = row(db, "SELECT max(octet_length(mark)) FROM nodes WHERE kind = ?", [kind])
        rows = max(1, (memory_mib << 20) // 4 // (2 * int(size_bytes)))
        for block_ids, block in _vectors(db, kind, rows, fresh_only=False):
            index = faiss.IndexFlatIP(block.shape[1])
            index.add(block)
            for ids, vectors in _vectors(db, kind, _QUERIES, fresh_only=True):
                _insert_near(db, index, block_ids, ids, vectors, min_cosine - _ROUNDING)


def _insert_near(
    db: duckdb.DuckDBPyConnection,
    index: "faiss.IndexFlatIP",
    block_ids: npt.NDArray[np.int64],
    ids: npt.NDArray[np.int64],
    vectors: Vectors,
    least: float,
) -> None:
    starts, _, found = index.range_search(vectors, least)
    counts: npt.NDArray[np.int64] = np.asarray(starts[1:], np.int64) - np.asarray(
        starts[:-1], np.int64
    )
    left = np.repeat(ids, counts)
    right = block_ids[found]
    apart = left != right
    if apart.any():
        near = pa.table({"a": left[apart], "b": right[apart]})
        db.register("near", near)
        db.execute("INSERT INTO edges SELECT DISTINCT least(a, b), greatest(a, b) FROM near")
        db.unregister("near")


def _vectors(
    db: duckdb.DuckDBPyConnection, kind: str, rows: int, fresh_only: bool
) -> Iterator[tuple[npt.NDArray[np.int64], Vectors]]:
    """Yield nodes and their vectors [n, width] of unit length, so many at a time."""
    which = "AND fresh" if fresh_only else ""
    sql = f"SELECT node, mark FROM nodes WHERE kind = ? {which} ORDER BY node"
    with db.cursor() as cursor:
        cursor.execute(sql, [kind])
        while held := cursor.fetchmany(rows):
            ids = np.asarray([node for node, _ in held], np.int64)
            yield ids, _stacked([mark for _, mark in held])


def vector_distances(rows: pa.Table) -> pa.DoubleArray:
    """Return 1 - cosine of the vectors `mark` and `of_mark`."""
    a, b = _stacked(rows["mark"].to_pylist()), _stacked(rows["of_mark"].to_pylist())
    return pa.array((1.0 - (a.astype(np.float64) * b).sum(axis=1)).tolist(), pa.float64())


def _stacked(marks: Sequence[bytes | None]) -> Vectors:
    found = np.stack([np.frombuffer(mark or b"", "<f2") for mark in marks]).astype(np.float32)
    length = np.linalg.norm(found, axis=1, keepdims=True)
    return np.ascontiguousarray(found / np.maximum(length, 1e-12))
