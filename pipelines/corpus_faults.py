"""Files that are broken on purpose, one function per kind of fault.

Each kind is what a real folder holds sooner or later: a download that stopped, a web page
saved under a video's name, a recording without a picture. The corpus makes them from whole
files; the ingest must give each a reason and go on.
"""

import io
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import av
import numpy as np

_NOT_UTF8 = "ein großer roter Kreis".encode("latin-1")
_PAGE = b"<!DOCTYPE html>\n<html><body>503: try again later</body></html>\n"


@dataclass(frozen=True)
class Fault:
    """A kind of broken file.

    Attributes:
        name: As the truth file spells it.
        ending: Of the file's name.
        reason: What the ingest must write to the quarantine.
        spoil: Turns a whole file and a seed into the broken one.
    """

    name: str
    ending: str
    reason: str
    spoil: Callable[[bytes, int], bytes]


def _empty(_data: bytes, _seed: int) -> bytes:
    return b""


def _page(_data: bytes, _seed: int) -> bytes:
    return _PAGE


def _noise(data: bytes, seed: int) -> bytes:
    return np.random.default_rng(seed).bytes(len(data))


def _cut(data: bytes, _seed: int) -> bytes:
    return data[: len(data) * 6 // 10]


def _cut_late(data: bytes, _seed: int) -> bytes:
    """Lose the last frames only: the first of a short clip is most of its bytes."""
    return data[: len(data) * 85 // 100]


def _overwritten(data: bytes, seed: int) -> bytes:
    """Overwrite the middle of the coded pictures; the index stays whole."""
    begin = data.find(b"mdat") + 4
    size = int.from_bytes(data[begin - 8 : begin - 4], "big") - 8
    first, last = begin + size * 3 // 10, begin + size * 8 // 10
    noise = np.random.default_rng(seed).bytes(last - first)
    return data[:first] + noise + data[last:]


def _strange_codec(data: bytes, _seed: int) -> bytes:
    """Rename the codec in the sample description to one that nobody knows."""
    return data.replace(b"avc1", b"zqx7").replace(b"avcC", b"zqxC")


def _audio_only(_data: bytes, seed: int) -> bytes:
    """Return an MP4 that holds half a second of a tone and no picture."""
    rate, out = 16_000, io.BytesIO()
    pitch_hz = 220 + seed % 220
    tone = 0.3 * np.sin(2 * np.pi * pitch_hz * np.arange(rate // 2) / rate)
    with av.open(out, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("aac", rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(tone.astype(np.float32)[None], "fltp", "mono")
        frame.sample_rate = rate
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return out.getvalue()


def _as_it_is(data: bytes, _seed: int) -> bytes:
    return data


FAULTS: dict[str, Fault] = {
    fault.name: fault
    for fault in (
        Fault("empty", "mp4", "empty_file", _empty),
        Fault("cut before its index", "mp4", "unreadable", _cut),
        Fault("cut", "webm", "truncated", _cut_late),
        Fault("noise", "mp4", "unreadable", _noise),
        Fault("web page", "mp4", "unreadable", _page),
        Fault("audio only", "mp4", "no_video", _audio_only),
        Fault("overwritten", "mp4", "corrupt", _overwritten),
        Fault("strange codec", "mp4", "unknown_codec", _strange_codec),
        Fault("caption not utf-8", "mp4", "caption_not_utf8", _as_it_is),
    )
}


def in_turns() -> Iterator[Fault]:
    """Yield the kinds again and again."""
    return itertools.cycle(FAULTS.values())


def spoil(fault: str, data: bytes, seed: int) -> bytes:
    """Return what the fault leaves of a whole file."""
    return FAULTS[fault].spoil(data, seed)


def refuses_file(fault: str) -> bool:
    """Return whether the file itself is to be refused, not only its caption."""
    return bool(fault) and FAULTS[fault].spoil is not _as_it_is


def caption_bytes(fault: str, text: str | None) -> bytes | None:
    """Return the content of the caption file, None where there is none."""
    if fault and not refuses_file(fault):
        return _NOT_UTF8
    return text.encode() if text is not None else None
