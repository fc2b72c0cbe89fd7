"""Videos: their frames as images, and drawn pictures as a video (PyAV)."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from sssd.engine.files import RunError

if TYPE_CHECKING:
    import av

ENDINGS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv")
SIGNATURE = "sssd.predict"  # in the header of every picture and video that is drawn
CLOCK = Fraction(1, 90_000)  # seconds: a tick of MPEG, which divides every usual frame time


def require_av() -> None:
    """Refuses videos where PyAV is not installed.

    Raises:
        ImportError: names the extra.
    """
    try:
        import av  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"videos need the video extra ({error}): pip install 'sssd[video]'"
        ) from error


def frames(path: Path) -> Iterator[tuple[float, np.ndarray]]:
    """The frames of a video, upright. Those that are damaged are left out, with a warning.

    Yields:
        The frame's time in seconds, and its pixels (H, W, 3) uint8.

    Raises:
        ValueError: the file is missing, holds no video that can be read, or ends in the middle of
            its container; it is named.
    """
    import av

    try:
        with av.open(os.path.abspath(path)) as container:
            if not container.streams.video:
                raise ValueError(f"{path}: this file contains no video")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            number = damaged = 0
            for packet in container.demux(stream):
                try:
                    decoded = packet.decode()
                except av.error.InvalidDataError:
                    damaged += 1
                    continue
                for frame in decoded:
                    untimed = number / (stream.average_rate or 25)
                    pixels = frame.to_ndarray(format="rgb24")
                    turned = np.rot90(pixels, round(frame.rotation / 90) % 4)
                    yield float(untimed if frame.time is None else frame.time), turned
                    number += 1
            if not number:
                raise ValueError(f"{path}: this video contains no frames that can be read")
            if damaged:
                warnings.warn(
                    f"{path} is damaged: {damaged} packets, about a frame each, are left out",
                    stacklevel=2,
                )
    except (av.error.FFmpegError, OSError) as error:
        raise ValueError(f"{path}: the video cannot be read: {error}") from error


def comment(path: Path) -> str | None:
    """The comment in a video's header, if it has one that can be read."""
    import av

    with av.open(os.path.abspath(path)) as container:
        return container.metadata.get("comment")


class VideoWriter:
    """Writes pictures as a video, each shown at its own time: H.264 in mp4, without sound.

    The file appears under its name once it is complete. Sides are cut to even numbers, which the
    format wants.

    Args:
        path: the file.

    Raises:
        RunError: the file cannot be written.

    Example:
        >>> with VideoWriter(Path("drawn.mp4")) as video:  # doctest: +SKIP
        ...     video.add(0.0, Image.new("RGB", (640, 480)))
    """

    def __init__(self, path: Path) -> None:
        path = self.path = Path(os.path.realpath(path))  # a link stays
        self._temporary = path.with_name(f".{path.stem[:200]}.{os.getpid()}.tmp.mp4")
        self._last = -1

    def __enter__(self) -> VideoWriter:
        import av

        with self._refusals():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._container = av.open(str(self._temporary), "w")
            self._container.metadata["comment"] = SIGNATURE
        self._stream: av.VideoStream | None = None
        return self

    def add(self, time: float, picture: Image.Image) -> None:
        """Adds a picture.

        Args:
            time: at which it is shown, in seconds; a clock that stands still moves by a tick.
            picture: of the size of the first one.
        """
        import av

        with self._refusals():
            if self._stream is None:
                # Frames that refer to later ones would make the file end before its last frame.
                self._stream = self._container.add_stream("libx264", rate=30, options={"bf": "0"})
                self._stream.width, self._stream.height = (s // 2 * 2 or 2 for s in picture.size)
                self._stream.pix_fmt = "yuv420p"
                self._stream.codec_context.time_base = CLOCK
            size = self._stream.width, self._stream.height
            frame = av.VideoFrame.from_image(picture.crop((0, 0, *size)))
            self._last = max(self._last + 1, round(time / CLOCK))
            frame.pts, frame.time_base = self._last, CLOCK
            self._container.mux(self._stream.encode(frame))

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        with self._refusals():
            if kind is None and self._stream is not None:
                self._container.mux(self._stream.encode())
            self._container.close()
            if kind is None:
                os.replace(self._temporary, self.path)
        self._temporary.unlink(missing_ok=True)

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        import av

        try:
            yield
        except (av.error.FFmpegError, OSError) as error:
            self._temporary.unlink(missing_ok=True)
            raise RunError(
                f"{self.path} cannot be written: {error}; free some disk space, or choose another "
                "place with --out"
            ) from error
