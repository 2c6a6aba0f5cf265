"""The folder that `snapvideo sample` writes: numbered videos, each with its recipe beside it.

    0000.json            what was asked of which weights, and the command that makes it again
    0000.mp4 0000.gif    the video, in every format that was asked for
    0000/frame_0000.png  its frames, where png was
    0000_preview.png     how it came about, where a preview was

A video goes by its recipe: one that lies here already is not made again, any other one gets the
next free number, so no file of another video is ever written over. The recipe is written last: an
interrupted command goes on where it was.
"""

import json
import re
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from infra import animation, storage, video
from infra.errors import DataError
from infra.stills import Frames, encode_image, filmstrip
from pipelines.recipe import Recipe, identity_of

_NUMBER = re.compile(r"(\d{4,})([._/].*)?$")
_NARROWEST, _WIDEST = 64, 160
"""Pixels of a frame in a preview."""


@dataclass(frozen=True)
class Made:
    """A video that lies in the folder."""

    number: int
    files: dict[str, str]
    """Format, or `preview`, to the name of a file or folder."""
    moments: Sequence[str]
    """What the rows of the preview show."""


class Outputs:
    """The videos below one URI."""

    def __init__(self, uri: str) -> None:
        """Read the recipes that lie there.

        Raises:
            DataError: It cannot be read.
        """
        self.uri = storage.absolute(uri)
        self._made: dict[str, Made] = {}
        self._next = 0
        for info in _listed(self.uri):
            name = info.uri.removeprefix(self.uri + "/")
            if found := _NUMBER.match(name):
                self._next = max(self._next, int(found[1]) + 1)
                if name == f"{found[1]}.json":
                    self._remember(int(found[1]), storage.read_text(info.uri))

    def find(self, recipe: Recipe, formats: Sequence[str], moments: Sequence[str]) -> list[str]:
        """Return the URIs of a video that is here in all formats, with its preview; else nothing.

        Args:
            recipe: The video.
            formats: Those asked for.
            moments: Rows of the preview; empty asks for none.
        """
        made = self._made.get(recipe.identity)
        if made is None or (moments and list(moments) != list(made.moments)):
            return []
        wanted = [*formats, *(["preview"] if moments else [])]
        if not all(name in made.files and self._is_there(made, name, recipe) for name in wanted):
            return []
        return [storage.join(self.uri, made.files[name]) for name in wanted]

    def check_writable(self) -> None:
        """Write and remove a file, so that a folder that refuses is known before hours of work.

        Raises:
            DataError: It cannot be written.
        """
        probe = storage.join(self.uri, f".probe-{uuid.uuid4().hex}")
        try:
            storage.write_bytes(probe, b"")
            storage.delete(probe)
        except DataError as fault:
            raise DataError(f"draw.out: {fault}, or choose another folder") from fault

    def write(
        self,
        recipe: Recipe,
        frames: Frames,
        formats: Sequence[str],
        preview: dict[str, Frames],
    ) -> list[str]:
        """Write a video, and return the URIs of what was written.

        Args:
            recipe: How it was made.
            frames: RGB [T,H,W,3].
            formats: Kinds of file, of mp4, gif, webp and png.
            preview: What each row of the preview shows -> its clip; empty writes none.

        Raises:
            DataError: The folder cannot be written.
        """
        old = self._made.get(recipe.identity) or self._claim(recipe)
        stem, fps = f"{old.number:04d}", recipe.request.fps
        files = {kind: f"{stem}.{kind}" if kind != "png" else stem for kind in formats}
        for kind in formats:
            for name, data in _encoded(kind, frames, fps):
                storage.write_bytes(storage.join(self.uri, files[kind] + name), data)
        if preview:
            files["preview"] = f"{stem}_preview.png"
            strip = encode_image(filmstrip(list(preview.values()), _width(preview)))
            storage.write_bytes(storage.join(self.uri, files["preview"]), strip)
        moments = list(preview) if preview else old.moments
        made = Made(old.number, old.files | files, moments)
        self._made[recipe.identity] = made
        storage.write_bytes(self._sidecar(made.number), _packed(recipe, made))
        return [storage.join(self.uri, name) for name in files.values()]

    def _claim(self, recipe: Recipe) -> Made:
        """Take the next number that no other command has taken."""
        while True:
            made = Made(self._next, {}, ())
            self._next += 1
            if storage.create_exclusive(self._sidecar(made.number), _packed(recipe, made)):
                return made

    def _remember(self, number: int, text: str) -> None:
        """Note a recipe; any other JSON keeps its number and is left alone."""
        try:
            values = json.loads(text)
            made = Made(number, dict(values["files"]), list(values["preview"]))
            self._made.setdefault(identity_of(values), made)
        except (ValueError, KeyError, TypeError):
            return

    def _is_there(self, made: Made, name: str, recipe: Recipe) -> bool:
        last = f"/{_frame(recipe.request.num_frames - 1)}" if name == "png" else ""
        return storage.exists(storage.join(self.uri, made.files[name] + last))

    def _sidecar(self, number: int) -> str:
        return storage.join(self.uri, f"{number:04d}.json")


def check_formats(formats: Sequence[str], fps: float) -> None:
    """Check that every format can show this framerate.

    Raises:
        ConfigError: One cannot.
    """
    if "gif" in formats:
        animation.check_gif_rate(fps)


def _listed(uri: str) -> list[storage.FileInfo]:
    try:
        return list(storage.list_files(uri))
    except DataError as fault:
        raise DataError(f"draw.out: {fault}; choose another folder") from fault


def _encoded(kind: str, frames: Frames, fps: float) -> Iterator[tuple[str, bytes]]:
    """Yield what is written of a video in one format: name behind the video's own, and bytes."""
    if kind == "png":
        for index, frame in enumerate(frames):
            yield f"/{_frame(index)}", encode_image(frame)
        return
    encode = {
        "mp4": video.encode_video,
        "gif": animation.encode_gif,
        "webp": animation.encode_webp,
    }[kind]
    yield "", encode(frames, fps)


def _frame(index: int) -> str:
    return f"frame_{index:04d}.png"


def _width(preview: dict[str, Frames]) -> int:
    """Return how wide a frame is in a preview: its own pixels, enlarged or shrunk to be seen."""
    widest = max(int(clip.shape[2]) for clip in preview.values())
    return min(_WIDEST, widest * max(1, _NARROWEST // widest))


def _packed(recipe: Recipe, made: Made) -> bytes:
    values: dict[str, Any] = recipe.to_dict()
    values |= {"files": made.files, "preview": list(made.moments)}
    return (json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode()
