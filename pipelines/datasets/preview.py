"""One HTML page to look through a dataset: film strips, captions, scores, quarantine.

The page needs nothing beside it and no network: pictures lie in it, and its content security
policy allows nothing else. It shows a sample of the clips, the same on every call, spread evenly
over the partitions; of quarantine it shows every reason with its count and some rows.
"""

import base64
import collections
import functools
import hashlib
import itertools
import json
import logging
import math
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jinja2
import pyarrow as pa

from infra import storage
from infra.errors import DataError
from infra.store.choose import selected_sql
from infra.store.dataset import Dataset
from infra.store.media import read_media
from infra.store.query import query
from infra.store.selection import Selection
from pipelines.datasets import words
from pipelines.datasets.actions import Answer
from pipelines.datasets.clips import View, view
from pipelines.datasets.config import DatasetSettings
from pipelines.datasets.filmstrip import filmstrip
from pipelines.datasets.packs import ending

log = logging.getLogger(__name__)

_TEMPLATES = Path(__file__).parent.parent / "templates"
_CLIPS = 300
_BINS = 24
_EXAMPLES = 20  # rows of quarantine shown for each reason
_CAPTIONS = 8  # newest captions shown for each clip
_TEXT = 2000  # letters of a caption or message
_REPORT_S = 5.0
_COLUMNS = (
    *("clip_id", "kind", "source_id", "source_uri", "width", "height", "duration_s"),
    *("fps_num", "fps_den", "num_frames", "codec", "container", "encode_mode", "shot_index"),
    *("media_file", "media_row", "media_offset", "media_length", "media_crc32c"),
)


def preview(root: str, out: str, settings: DatasetSettings, selection: Selection) -> Answer:
    """Write the page and return where it lies."""
    seen = view(Dataset.open(root), settings.release, selection)
    clips = _cards(seen, settings.limit or _CLIPS, settings.threads)
    refused = _refused(seen)
    if not clips and not refused:
        raise DataError(
            f"{seen.dataset.root}: no clip counts and nothing is in quarantine; ingest first, or "
            "choose another --release"
        )
    text = page(
        {
            "title": storage.absolute(root).rstrip("/").rpartition("/")[2],
            "root": seen.dataset.root,
            "release": seen.name,
            "created_at": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
            "num_clips": _num_clips(seen),
            "clips": clips,
            "scorers": _scorers(clips),
            "quarantine": refused,
        }
    )
    storage.write_bytes(out, text.encode())
    tree = {"page": out, "num_clips": len(clips), "size_bytes": len(text)}
    return Answer(f"{out}: {len(clips)} clips, {words.size(len(text))}", tree)


def page(facts: dict[str, Any]) -> str:
    """Return the page that shows the facts, whatever their texts contain."""
    return _template().render(facts=facts, data=_embedded(facts), hash=_hash)


def _cards(seen: View, limit: int, threads: int) -> list[dict[str, Any]]:
    """Return what is shown of each sampled clip."""
    rows = _sample(seen, limit)
    ids = pa.table({"clip_id": pa.array([row["clip_id"] for row in rows], pa.string())})
    captions, scores = _captions(seen, ids), _scores(seen, ids)
    cards, reported_s = [], time.monotonic()
    with ThreadPoolExecutor(threads) as pool:
        for row, picture in zip(rows, pool.map(_picture(seen), rows), strict=True):
            cards.append(_card(row, captions, scores) | picture)
            if time.monotonic() - reported_s > _REPORT_S:
                reported_s = time.monotonic()
                log.info("preview clips=%d/%d", len(cards), len(rows))
    return cards


def _sample(seen: View, limit: int) -> list[dict[str, Any]]:
    """Return rows of clips, of every partition alike, in an order that only their names decide."""
    chosen, values = selected_sql(seen.selection)
    drawn = f"""
        WITH parted AS (
            SELECT source_id, min("partition") AS part FROM sources
            WHERE status = 'ok' GROUP BY source_id
        ),
        few AS (
            SELECT coalesce(part, '') AS part, arg_min(clip_id, md5(clip_id), ?) AS ids
            FROM ({chosen}) LEFT JOIN parted USING (source_id) GROUP BY part
        ),
        ranked AS (
            SELECT part, unnest(ids) AS clip_id, generate_subscripts(ids, 1) AS turn FROM few
        )
        SELECT part, clip_id, md5(clip_id) AS draw FROM ranked ORDER BY turn, draw LIMIT ?
    """
    with query(seen.dataset, drawn, seen.versions, parameters=[limit, *values, limit]) as rows:
        picked = rows.read_all()
    names = ", ".join(_COLUMNS)
    sql = (  # no join, for which all clips might be held
        f"SELECT {names}, split FROM ({chosen}) WHERE clip_id IN (SELECT clip_id FROM shown)"
    )
    with query(seen.dataset, sql, seen.versions, {"shown": picked}, values) as rows:
        found = {row["clip_id"]: row for row in rows.read_all().to_pylist()}
    order = sorted(picked.to_pylist(), key=lambda row: (row["part"], row["draw"]))
    return [found[row["clip_id"]] | {"part": row["part"]} for row in order]


def _num_clips(seen: View) -> int:
    chosen, values = selected_sql(seen.selection)
    sql = f"SELECT count(*) AS num FROM ({chosen})"
    with query(seen.dataset, sql, seen.versions, parameters=values) as rows:
        return int(rows.read_all()["num"][0].as_py())


def _captions(seen: View, ids: pa.Table) -> dict[str, list[dict[str, str]]]:
    """Return the newest captions of the sampled clips."""
    sql = f"""
        SELECT clip_id, left(text, {_TEXT}) AS text, coalesce(origin, '') AS origin,
            coalesce(lang, '') AS lang, coalesce(model, '') AS model,
            coalesce(status, '') AS status
        FROM captions SEMI JOIN shown USING (clip_id)
        QUALIFY row_number() OVER (
            PARTITION BY clip_id ORDER BY coalesce(origin = 'human', false) DESC,
            commit_seq DESC, created_at DESC, caption_id) <= {_CAPTIONS}
        ORDER BY clip_id, coalesce(origin = 'human', false) DESC, commit_seq DESC, caption_id
    """
    found: dict[str, list[dict[str, str]]] = collections.defaultdict(list)
    with query(seen.dataset, sql, seen.versions, {"shown": ids}) as rows:
        for row in itertools.chain.from_iterable(batch.to_pylist() for batch in rows):
            found[row.pop("clip_id")].append(row)
    return found


def _scores(seen: View, ids: pa.Table) -> dict[str, dict[str, float]]:
    """Return clip -> scorer -> value; a scorer of several versions names them."""
    sql = """
        SELECT clip_id, scorer, coalesce(version, '') AS version, max(value) AS value
        FROM scores SEMI JOIN shown USING (clip_id)
        WHERE isfinite(value) GROUP BY ALL ORDER BY scorer, version, clip_id
    """
    with query(seen.dataset, sql, seen.versions, {"shown": ids}) as rows:
        table = rows.read_all().to_pylist()
    versions = collections.defaultdict(set)
    for row in table:
        versions[row["scorer"]].add(row["version"])
    found: dict[str, dict[str, float]] = collections.defaultdict(dict)
    for row in table:
        many = len(versions[row["scorer"]]) > 1
        name = f"{row['scorer']} {row['version']}" if many else row["scorer"]
        found[row["clip_id"]][name] = row["value"]
    return found


def _refused(seen: View) -> list[dict[str, Any]]:
    """Return every reason of quarantine with its count and some of its rows, newest first."""
    sql = f"""
        WITH ranked AS (
            SELECT coalesce(stage, '') AS stage, coalesce(reason, '') AS reason,
                left(coalesce(source_uri, ''), {_TEXT}) AS uri,
                left(coalesce(message, ''), {_TEXT}) AS message,
                coalesce(clip_id, '') AS clip_id, strftime("at", '%Y-%m-%d %H:%M') AS noted,
                coalesce(retryable, false) AS retryable,
                count(*) OVER (PARTITION BY stage, reason) AS num,
                row_number() OVER (
                    PARTITION BY stage, reason ORDER BY "at" DESC, source_uri) AS turn
            FROM quarantine
        )
        SELECT * FROM ranked WHERE turn <= {_EXAMPLES} ORDER BY num DESC, stage, reason, turn
    """
    with query(seen.dataset, sql, seen.versions) as rows:
        table = rows.read_all().to_pylist()
    groups = itertools.groupby(table, key=lambda row: (row["stage"], row["reason"], row["num"]))
    return [
        {"stage": stage, "reason": reason, "num": num, "rows": [_example(row) for row in group]}
        for (stage, reason, num), group in groups
    ]


def _example(row: dict[str, Any]) -> dict[str, Any]:
    kept = {name: row[name] for name in ("uri", "message", "clip_id", "retryable")}
    return kept | {"at": row["noted"] or ""}


def _picture(seen: View) -> Callable[[dict[str, Any]], dict[str, str]]:
    """Return what draws the frames of one row."""

    def draw(row: dict[str, Any]) -> dict[str, str]:
        try:
            data = filmstrip(read_media(seen.dataset.root, row), row["num_frames"] or 1)
        except DataError as fault:
            log.warning("no picture clip=%s: %s", row["clip_id"], fault)
            return {"image": "", "fault": str(fault)[:_TEXT]}
        return {"image": f"data:image/webp;base64,{base64.b64encode(data).decode()}", "fault": ""}

    return draw


def _card(
    row: dict[str, Any],
    captions: dict[str, list[dict[str, str]]],
    scores: dict[str, dict[str, float]],
) -> dict[str, Any]:
    clip_id = row["clip_id"]
    return {
        "id": clip_id,
        "kind": row["kind"] or "",
        "partition": row["part"],
        "split": row["split"],
        "uri": (row["source_uri"] or "")[:_TEXT],
        "shot": row["shot_index"] or 0,
        "width": row["width"] or 0,
        "height": row["height"] or 0,
        "duration_s": round(row["duration_s"] or 0, 3),
        "fps": round((row["fps_num"] or 0) / (row["fps_den"] or 1), 3),
        "num_frames": row["num_frames"] or 0,
        "codec": f"{row['codec'] or '?'} in {ending(row)}",
        "mode": row["encode_mode"] or "",
        "size": words.size(row["media_length"] or 0),
        "size_bytes": row["media_length"] or 0,
        "captions": captions.get(clip_id, []),
        "scores": {name: _rounded(value) for name, value in scores.get(clip_id, {}).items()},
    }


def _scorers(clips: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return each scorer with its range and how its values are spread over it."""
    values = collections.defaultdict(list)
    for clip in clips:
        for name, value in clip["scores"].items():
            values[name].append(value)
    return [
        {"name": name, "low": min(found), "high": max(found), "bins": _bins(found)}
        for name, found in sorted(values.items())
    ]


def _bins(values: list[float]) -> list[int]:
    low, high = min(values), max(values)
    counts = [0] * _BINS
    for value in values:
        at = (value - low) / (high - low) * _BINS if high > low else 0
        counts[min(_BINS - 1, int(at))] += 1
    return counts


def _rounded(value: float) -> float:
    """Return a value with four digits: enough to look at."""
    return float(f"{value:.4g}") if math.isfinite(value) else 0.0


def _embedded(facts: dict[str, Any]) -> str:
    """Return JSON that may stand inside a script element: it holds no `<`, `>` and `&`."""
    text = json.dumps(facts, ensure_ascii=True, allow_nan=False)
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def _hash(text: str) -> str:
    """Return the name under which a content security policy allows an inline text."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("preview.html")
