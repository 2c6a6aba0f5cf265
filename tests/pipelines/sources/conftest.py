"""A web server of this machine that answers as a test wants, and folders of small files."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pipelines.sources.config import HttpSettings

Answer = Callable[[BaseHTTPRequestHandler], None]


class Web:
    """What the server answers by path, and what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, bytes | Answer] = {}
        self.asked: list[tuple[str, str, str]] = []
        self.gate = threading.Event()  # set at the end, so that stalled answers stop
        self.port = 0

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        self.asked.append((request.command, request.path, request.headers.get("Host", "")))
        answer = self.answers.get(request.path)
        if answer is None:
            send(request, 404, b"nothing here")
        elif isinstance(answer, bytes):
            send(request, 200, answer)
        else:
            answer(request)


def send(request: BaseHTTPRequestHandler, status: int, body: bytes, **headers: str) -> None:
    request.send_response(status)
    given = {"Content-Length": str(len(body))} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    for name, value in given.items():
        if value:
            request.send_header(name, value)
    request.end_headers()
    if request.command != "HEAD":
        with contextlib.suppress(OSError):
            request.wfile.write(body)


@pytest.fixture
def web() -> Iterator[Web]:
    found = Web()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.handle(self)

        do_HEAD = do_GET  # noqa: N815 - http.server's names

        def log_message(self, *words: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield found
    found.gate.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def permitted() -> HttpSettings:
    """HTTP with this machine's server permitted, and little patience."""
    return HttpSettings(
        hosts=("127.0.0.1", "localhost"),
        schemes=("http", "https"),
        allow_private=True,
        read_timeout_s=0.5,
        total_timeout_s=1.5,
    )


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path) -> str:
    """A place for files, on disk and in S3."""
    return str(tmp_path / "src") if request.param == "local" else request.getfixturevalue("s3")
