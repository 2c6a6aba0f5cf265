"""The columns of every table: where stages meet.

Tables are append-only: where a newer row says more about the same thing, the newest counts
(`commit_seq`). Columns and tables are only ever added, with a higher `FORMAT`; rows that were
written before read as null there. Identity is content: `source_id` and `clip_id` are hashes.
"""

from typing import Literal

import pyarrow as pa

FORMAT = 2
"""Version of the dataset's layout; written to `dataset.json` and checked on opening."""

TableName = Literal[
    "sources", "clips", "captions", "scores", "vectors", "duplicates", "embeddings", "quarantine",
    "recipes",
]  # fmt: skip

_text: pa.DataType = pa.string()
_int: pa.DataType = pa.int64()
_float: pa.DataType = pa.float64()
_bool: pa.DataType = pa.bool_()
_time: pa.DataType = pa.timestamp("us", "UTC")
_box: pa.DataType = pa.struct([("x", _int), ("y", _int), ("w", _int), ("h", _int)])


def _columns(types: dict[str, pa.DataType]) -> pa.Schema:
    return pa.schema(types)


SOURCES = _columns(
    {
        "source_uri": _text,  # the newest row of a URI says what is known of it
        "source_root": _text,  # what was listed when it was found: a folder, prefix or manifest
        "partition": _text,
        "stamp": _text,  # changes when the media may have changed
        "caption_stamp": _text,  # changes when a sidecar caption may have changed
        "source_id": _text,  # SHA-256 of its bytes; empty where they could not be read
        "status": _text,  # ok, refused, vanished
        "reason": _text,  # why it is refused
        "retryable": _bool,
        "attempts": _int,
        "ingest_id": _text,  # the settings that decided what became of it
        "transform_id": _text,
        "size_bytes": _int,
        "num_clips": _int,
        "metadata": _text,  # JSON: what a manifest or sidecar says besides the caption
        "run_id": _text,
        "at": _time,
        "commit_seq": _int,  # larger is newer
    }
)

CLIPS = _columns(
    {
        "clip_id": _text,  # hash of (source_id, exact span, transform_id)
        "kind": _text,  # video, image
        "source_id": _text,  # SHA-256 of the source's bytes
        "source_uri": _text,
        "src_start_pts": _int,  # in units of src_tb, counted from the source's first frame
        "src_end_pts": _int,  # exclusive
        "src_tb_num": _int,
        "src_tb_den": _int,
        "shot_index": _int,
        "media_file": _text,  # relative to the dataset's root
        "media_row": _int,  # row group
        "media_offset": _int,
        "media_length": _int,
        "media_sha256": _text,
        "media_crc32c": _int,
        "encode_mode": _text,  # original, remux, transcode
        "transform_id": _text,
        "container": _text,
        "codec": _text,
        "pix_fmt": _text,
        "color_trc": _int,  # ITU-T H.273 table 3
        "bit_depth": _int,
        "width": _int,  # as displayed: upright, square pixels
        "height": _int,
        "coded_width": _int,
        "coded_height": _int,
        "rotation": _int,  # degrees counter-clockwise
        "sar": _text,  # "n:d"
        "crop": _box,
        "fps_num": _int,
        "fps_den": _int,
        "is_vfr": _bool,
        "num_frames": _int,  # counted, not declared
        "duration_s": _float,
        "keyframe_pts": pa.list_(_int),  # in units of src_tb, counted from the clip's first frame
        "interlaced": _bool,
        "has_audio": _bool,
        "phash": _text,  # 64 bits of the middle frame, hexadecimal
        "split_bucket": _int,  # 0..999, from source_id
        "run_id": _text,
        "code_version": _text,
    }
)

CAPTIONS = _columns(
    {
        "clip_id": _text,
        "caption_id": _text,
        "text": _text,
        "lang": _text,
        "origin": _text,  # human, alt_text, asr, synthetic
        "recipe_id": _text,
        "model": _text,
        "model_revision": _text,
        "prompt_id": _text,
        "frame_policy": _text,
        "seed": _int,
        "prompt_tokens": _int,
        "output_tokens": _int,
        "status": _text,  # ok, truncated, refused, empty, error
        "error": _text,
        "align_score": _float,
        "media_sha256": _text,
        "run_id": _text,
        "created_at": _time,
        "commit_seq": _int,  # larger is newer
    }
)

SCORES = _columns(
    {"clip_id": _text, "scorer": _text, "version": _text, "value": _float, "run_id": _text}
)

VECTORS = _columns(
    {
        "clip_id": _text,
        "encoder_id": _text,
        "width": _int,
        "values": pa.binary(),  # float16, little-endian, [width], unit length
        "run_id": _text,
    }
)

DUPLICATES = _columns(
    {
        "clip_id": _text,  # the one to leave out
        "of_clip_id": _text,  # the one that stays
        "method": _text,  # phash, or the encoder_id whose vectors were compared
        "version": _text,  # what the decision depends on besides the two clips
        "distance": _float,
        "run_id": _text,
        "at": _time,
    }
)

EMBEDDINGS = _columns(
    {
        "text_hash": _text,
        "encoder_id": _text,
        "num_tokens": _int,
        "width": _int,
        "values": pa.binary(),  # bfloat16, little-endian, [num_tokens, width]
        "run_id": _text,
    }
)

QUARANTINE = _columns(
    {
        "source_uri": _text,
        "source_id": _text,
        "clip_id": _text,  # where one clip of a source is refused
        "policy_id": _text,  # the settings that refused it, where others might not
        "stage": _text,
        "reason": _text,
        "message": _text,
        "attempts": _int,
        "retryable": _bool,
        "run_id": _text,
        "at": _time,
    }
)

RECIPES = _columns(
    {
        "recipe_id": _text,
        "model": _text,
        "model_revision": _text,
        "prompt_id": _text,
        "prompt": _text,
        "frame_policy": _text,
        "sampling": _text,  # JSON
        "code_version": _text,
        "run_id": _text,
        "created_at": _time,
    }
)

SCHEMAS: dict[TableName, pa.Schema] = {
    "sources": SOURCES,
    "clips": CLIPS,
    "captions": CAPTIONS,
    "scores": SCORES,
    "vectors": VECTORS,
    "duplicates": DUPLICATES,
    "embeddings": EMBEDDINGS,
    "quarantine": QUARANTINE,
    "recipes": RECIPES,
}
