"""HTTP with bounds: addresses that were checked, a deadline for all of it, a limit while reading.

Nothing is unpacked, no proxy is used, redirects are checked as the first address was. Faults of
one address are `FetchError`s: a dead link is data.
"""

import contextlib
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import urljoin

from pipelines.sources.address import FetchError, Target, parsed, resolved
from pipelines.sources.config import HttpSettings

_CHUNK = 1 << 20
_REDIRECTS = (301, 302, 303, 307, 308)
_DEAD_FOR_GOOD = (401, 403, 410, 414)
_FAULTS = (OSError, http.client.HTTPException, ValueError)


@dataclass(frozen=True)
class Answer:
    """What a server says about an address."""

    stamp: str
    """ETag, or time of change and size; empty where it tells neither."""
    size_bytes: int
    """-1 where it does not tell."""


def head(url: str, settings: HttpSettings) -> Answer:
    """Return what changes when the content of an address does, without fetching it.

    Raises:
        FetchError: It may not be asked, or does not answer.
    """
    with _response(url, settings, "HEAD", {}) as (response, _):
        return _answer(response)


def download(
    url: str,
    settings: HttpSettings,
    limit_bytes: int,
    write: Callable[[bytes], object],
    span: tuple[int, int] | None = None,
) -> Answer:
    """Hand the content of an address to `write`, piece by piece.

    Args:
        url: What to fetch.
        settings: What is allowed.
        limit_bytes: Most that is read; a server that sends more, whatever it declared, is refused.
        write: Takes each piece.
        span: Offset and length of a part; all of it by default.

    Raises:
        FetchError: It may not be fetched, is too large, too slow, or breaks off.
    """
    ranged = {"Range": f"bytes={span[0]}-{span[0] + span[1] - 1}"} if span else {}
    with _response(url, settings, "GET", ranged) as (response, left_s):
        if span and response.status != 206:
            raise FetchError("no_ranges", f"{url}: the server does not send parts of a file", False)
        answer = _answer(response)
        if answer.size_bytes > limit_bytes:
            raise _too_large(url, answer.size_bytes, limit_bytes)
        got = 0
        while piece := _piece(url, response, left_s):
            got += len(piece)
            if got > limit_bytes:
                raise _too_large(url, got, limit_bytes)
            write(piece)
        if got < answer.size_bytes or (span and got != span[1]):
            raise FetchError("broke_off", f"{url}: {got} bytes, {answer.size_bytes} were declared")
    return answer


def _piece(url: str, response: http.client.HTTPResponse, left_s: Callable[[], float]) -> bytes:
    piece = response.read1(_CHUNK)
    if left_s() <= 0:  # what is shut at the deadline reads as ended
        raise FetchError("timeout", f"{url}: not done in time")
    return piece


@contextlib.contextmanager
def _response(
    url: str, settings: HttpSettings, method: str, headers: dict[str, str]
) -> Iterator[tuple[http.client.HTTPResponse, Callable[[], float]]]:
    """Ask an address, follow its redirects, and give the answer while the deadline lasts."""
    ends_s = time.monotonic() + settings.total_timeout_s

    def left_s() -> float:
        return ends_s - time.monotonic()

    for _ in range(settings.max_redirects + 1):
        target = parsed(url, settings)
        with _connected(url, target, settings, left_s) as connection:
            connection.request(method, target.path, headers=_HEADERS | headers)
            with connection.getresponse() as response:
                if response.status not in _REDIRECTS:
                    _check(url, response)
                    yield response, left_s
                    return
                url = urljoin(url, response.headers.get("Location", ""))
    raise FetchError("too_many_redirects", f"more than {settings.max_redirects}, to {url}", False)


_HEADERS = {"Accept-Encoding": "identity", "User-Agent": "snapvideo", "Connection": "close"}


@contextlib.contextmanager
def _connected(
    url: str, target: Target, settings: HttpSettings, left_s: Callable[[], float]
) -> Iterator[http.client.HTTPConnection]:
    """Connect to the address that was checked; at the deadline the socket is shut."""
    connection = _Pinned(target, resolved(target, settings), settings.read_timeout_s)
    timer = threading.Timer(max(0.0, left_s()), connection.shut)
    timer.daemon = True
    timer.start()
    try:
        yield connection
    except ssl.SSLCertVerificationError as fault:
        raise FetchError("bad_certificate", f"{url}: {fault.verify_message}") from fault
    except _FAULTS as fault:
        late = isinstance(fault, TimeoutError) or left_s() <= 0
        reason = "timeout" if late else "no_answer"
        raise FetchError(reason, f"{url}: {type(fault).__name__} {fault}".strip()) from fault
    finally:
        timer.cancel()
        connection.close()


class _Pinned(http.client.HTTPConnection):
    """A connection to one of some IP addresses, under the host's name for HTTP and TLS."""

    def __init__(self, target: Target, addresses: list[str], timeout_s: float) -> None:
        super().__init__(target.host, target.port, timeout=timeout_s)
        self.default_port = 443 if target.scheme == "https" else 80  # what Host leaves out
        self._target, self._addresses = target, addresses
        self._late = False
        self._open: socket.socket | None = None  # `sock` is let go of once the answer comes

    def connect(self) -> None:
        """Open the socket."""
        self.sock = self._first_that_answers()
        if self._target.scheme == "https":
            context = ssl.create_default_context()
            self.sock = context.wrap_socket(self.sock, server_hostname=self._target.host)
        self._open = self.sock
        if self._late:
            raise TimeoutError("connected too late")

    def _first_that_answers(self) -> socket.socket:
        *others, last = self._addresses
        for address in others:
            with contextlib.suppress(OSError):
                return socket.create_connection((address, self._target.port), self.timeout)
        return socket.create_connection((last, self._target.port), self.timeout)

    def shut(self) -> None:
        """End all reading and writing from another thread."""
        self._late = True
        if self._open is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self._open, socket.SHUT_RDWR)  # past TLS, which would wait


def _check(url: str, response: http.client.HTTPResponse) -> None:
    if response.status not in (200, 206):
        gone = response.status in _DEAD_FOR_GOOD
        raise FetchError(f"http_{response.status}", f"{url}: {response.reason}", not gone)
    packed = response.headers.get("Content-Encoding", "identity")
    if packed.lower() not in ("identity", ""):
        raise FetchError("packed", f"{url}: sent as {packed}, which nobody asked for", False)


def _answer(response: http.client.HTTPResponse) -> Answer:
    declared = response.headers.get("Content-Length", "")
    size_bytes = int(declared) if declared.isascii() and declared.isdigit() else -1
    tag = response.headers.get("ETag", "")
    changed = response.headers.get("Last-Modified", "")
    whole = response.headers.get("Content-Range", "").rpartition("/")[2] or declared
    return Answer(tag or (f"{changed} {whole}" if changed else ""), size_bytes)


def _too_large(url: str, size_bytes: int, limit_bytes: int) -> FetchError:
    return FetchError(
        "too_large", f"{url}: {size_bytes} bytes or more, at most {limit_bytes}", False
    )
