"""HTTP over real sockets: servers that lie, stall, redirect; addresses that may not be asked."""

import gzip
import http.server
import socket
import ssl
import subprocess
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.sources import address
from pipelines.sources.address import FetchError, is_public, parsed, resolved
from pipelines.sources.config import HttpSettings
from pipelines.sources.web import download
from tests.pipelines.sources.conftest import send

ANY = HttpSettings(hosts=("*",), schemes=("http", "https"))


def got(url, settings, limit_bytes=1 << 20, **more):
    found = bytearray()
    download(url, settings, limit_bytes, found.extend, **more)
    return bytes(found)


def reason_of(url, settings, **more):
    with pytest.raises(FetchError) as fault:
        got(url, settings, **more)
    return fault.value.reason


@pytest.mark.parametrize(
    "wrong",
    [
        "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1",
        "169.254.169.254", "100.64.0.1", "192.0.2.1", "198.18.0.1", "224.0.0.1", "240.0.0.1",
        "255.255.255.255", "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fec0::1", "ff02::1",
        "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a00:1",
        "2002:7f00:0001::", "2001:0:7f00:1::", "2001:db8::1",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public(wrong):
    assert not is_public(wrong)


@pytest.mark.parametrize("right", ["93.184.216.34", "8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8"])
def test_addresses_that_are_public(right):
    assert is_public(right)


@given(st.ip_addresses(v=4))
def test_an_address_is_as_public_as_what_it_wraps(found):
    assert is_public(f"::ffff:{found}") == is_public(str(found))
    assert is_public(f"64:ff9b::{found}") == is_public(str(found))


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/", "http://localhost/", "http://2130706433/", "http://0x7f.1/",
        "http://0177.0.0.1/", "http://[::1]/", "http://[::ffff:127.0.0.1]/", "http://0/",
        "http://169.254.169.254/latest/meta-data/",
    ],
)  # fmt: skip
def test_private_addresses_are_refused_however_they_are_written(url):
    assert reason_of(url, ANY) == "forbidden_address"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ftp://a.example/x", "forbidden_scheme"),
        ("http://a.example/x", "forbidden_scheme"),
        ("https://b.example/x", "forbidden_host"),
        ("https://a.example.evil.example/x", "forbidden_host"),
        ("https://evila.example/x", "forbidden_host"),
        ("https://a.example@b.example/x", "forbidden_credentials"),
        ("https://user:word@a.example/x", "forbidden_credentials"),
        ("https://b.example\\@a.example/x", "bad_url"),
        ("https://a.example/x\r\nHost: b", "bad_url"),
        ("https://a.example:99999/", "bad_url"),
        ("https:///x", "forbidden_host"),
    ],
)
def test_urls_that_may_not_be_asked(url, reason):
    with pytest.raises(FetchError) as fault:
        parsed(url, HttpSettings(hosts=("a.example",)))
    assert (fault.value.reason, fault.value.retryable) == (reason, False)


def test_hosts_below_one_can_be_allowed():
    below = HttpSettings(hosts=("*.a.example",))
    assert parsed("https://x.a.example/y z?q=ü", below).path == "/y%20z?q=%C3%BC"
    with pytest.raises(FetchError):
        parsed("https://a.example/", below)


def test_a_host_with_one_public_address_is_asked_there(monkeypatch):
    found = [(2, 1, 6, "", ("10.0.0.1", 443)), (2, 1, 6, "", ("93.184.216.34", 443))]
    monkeypatch.setattr(address.socket, "getaddrinfo", lambda *a, **k: found)
    assert resolved(parsed("https://a.example/", ANY), ANY) == ["93.184.216.34"]


def test_the_second_address_is_asked_where_the_first_does_not_answer(web, permitted, monkeypatch):
    web.answers["/x"] = b"content"
    found = [(2, 1, 6, "", (host, web.port)) for host in ("127.0.0.9", "127.0.0.1")]
    monkeypatch.setattr(address.socket, "getaddrinfo", lambda *a, **k: found)
    assert got(web.url("/x", "localhost"), permitted) == b"content"


def test_a_name_that_changes_its_meaning_gains_nothing(web, permitted, monkeypatch):
    """DNS rebinding: the second answer would lead elsewhere; it is not asked for."""
    web.answers["/x"] = b"content"
    answers = iter([("127.0.0.1", web.port), ("10.255.255.1", 1)])

    def rebinding(host, port, **more):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", next(answers))]

    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda h, p, *a, **k: rebinding(h, p) if h == "a.example" else real(h, p, *a, **k),
    )
    settings = permitted.model_copy(update={"hosts": ("a.example",)})
    assert got(web.url("/x", "a.example"), settings) == b"content"
    assert web.asked == [("GET", "/x", f"a.example:{web.port}")]


def test_content_arrives(web, permitted):
    web.answers["/ü v.mp4"] = b"never"
    web.answers["/%C3%BC%20v.mp4?a=1&b=%20"] = b"content"
    assert got(web.url("/ü v.mp4?a=1&b=%20#part"), permitted) == b"content"


@pytest.mark.parametrize(
    ("status", "retryable"), [(404, True), (500, True), (429, True), (403, False), (410, False)]
)
def test_dead_links_are_reasons(web, permitted, status, retryable):
    web.answers["/x"] = lambda request: send(request, status, b"sorry")
    with pytest.raises(FetchError) as fault:
        got(web.url("/x"), permitted)
    assert (fault.value.reason, fault.value.retryable) == (f"http_{status}", retryable)


def test_a_port_where_nobody_listens_is_a_reason(permitted):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert reason_of(f"http://127.0.0.1:{port}/", permitted) == "no_answer"


def test_a_host_without_address_is_a_reason(permitted):
    settings = permitted.model_copy(update={"hosts": ("*",)})
    assert reason_of("http://nowhere.invalid/", settings) == "unknown_host"


def test_a_redirect_to_a_private_address_is_refused(web, monkeypatch):
    """The first address is let through as if it were public; the second is checked as it was."""
    web.answers["/x"] = lambda request: send(
        request, 302, b"", Location=f"http://127.0.0.2:{web.port}/secret"
    )
    web.answers["/secret"] = b"secret"
    monkeypatch.setattr(address, "is_public", lambda found: found == "127.0.0.1")
    assert reason_of(web.url("/x"), ANY) == "forbidden_address"
    assert [path for _, path, _ in web.asked] == ["/x"]


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("http://elsewhere.example/", "forbidden_host"),
        ("file:///etc/passwd", "forbidden_scheme"),
        ("ftp://127.0.0.1/", "forbidden_scheme"),
    ],
)
def test_a_redirect_elsewhere_is_refused(web, permitted, location, reason):
    web.answers["/x"] = lambda request: send(request, 301, b"", Location=location)
    assert reason_of(web.url("/x"), permitted) == reason


def test_redirects_within_what_is_allowed_are_followed(web, permitted):
    web.answers["/x"] = lambda request: send(request, 307, b"", Location="y")
    web.answers["/y"] = b"content"
    assert got(web.url("/x"), permitted) == b"content"


def test_redirects_in_a_circle_end(web, permitted):
    web.answers["/x"] = lambda request: send(request, 302, b"", Location="/x")
    assert reason_of(web.url("/x"), permitted) == "too_many_redirects"
    assert len(web.asked) == permitted.max_redirects + 1


def test_a_declared_size_over_the_limit_is_refused_before_reading(web, permitted):
    def huge(request):
        request.send_response(200)
        request.send_header("Content-Length", str(1 << 40))
        request.end_headers()
        web.gate.wait(10)

    web.answers["/x"] = huge
    started = time.monotonic()
    assert reason_of(web.url("/x"), permitted) == "too_large"
    assert time.monotonic() - started < 0.5


def test_an_endless_answer_is_cut_at_the_limit(web, permitted):
    sent = 0

    def endless(request):
        nonlocal sent
        request.send_response(200)
        request.end_headers()
        while not web.gate.is_set():
            try:
                sent += request.wfile.write(b"x" * 65536)
            except OSError:
                return

    web.answers["/x"] = endless
    assert reason_of(web.url("/x"), permitted) == "too_large"
    assert sent < 32 << 20


def test_an_answer_that_breaks_off_is_noticed(web, permitted):
    web.answers["/x"] = lambda request: send(request, 200, b"half", Content_Length="8")
    assert reason_of(web.url("/x"), permitted) == "broke_off"


def test_an_answer_longer_than_declared_is_cut_where_it_was_declared(web, permitted):
    web.answers["/x"] = lambda request: send(request, 200, b"content and more", Content_Length="7")
    assert got(web.url("/x"), permitted) == b"content"


def stalls_after(*pieces):
    def answer(web):
        def handle(request):
            for piece in pieces:
                request.wfile.write(piece)
            request.wfile.flush()
            web.gate.wait(10)

        return handle

    return answer


HEAD = b"HTTP/1.0 200 OK\r\nContent-Length: 100\r\n\r\n"


@pytest.mark.parametrize("pieces", [(), (b"HTTP/1.0 2",), (HEAD,), (HEAD, b"some")])
def test_a_server_that_stalls_is_left(web, permitted, pieces):
    web.answers["/x"] = stalls_after(*pieces)(web)
    started = time.monotonic()
    assert reason_of(web.url("/x"), permitted) == "timeout"
    assert time.monotonic() - started < 1.4


@pytest.mark.parametrize("start", [b"HTTP/1.0 200 OK\r\nX: ", HEAD.replace(b"100", b"10000")])
def test_a_server_that_drips_is_left_at_the_deadline(web, permitted, start):
    def drips(request):
        request.wfile.write(start)
        for _ in range(200):
            request.wfile.write(b"x")
            request.wfile.flush()
            if web.gate.wait(0.1):
                return

    web.answers["/x"] = drips
    started = time.monotonic()
    assert reason_of(web.url("/x"), permitted) == "timeout"
    assert 1.0 < time.monotonic() - started < 3


def test_packed_content_is_not_unpacked(web, permitted):
    bomb = gzip.compress(bytes(50 << 20))
    web.answers["/x"] = lambda request: send(request, 200, bomb, Content_Encoding="gzip")
    assert reason_of(web.url("/x"), permitted) == "packed"


@pytest.mark.parametrize(
    "answer",
    [
        b"garbage\r\n\r\n",
        b"HTTP/1.0 abc\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n" + b"X: y\r\n" * 500,
        b"HTTP/1.0 200 OK\r\nX: " + b"y" * 100_000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nabc",
    ],
)
def test_nonsense_is_no_answer(web, permitted, answer):
    web.answers["/x"] = lambda request: request.wfile.write(answer)
    assert reason_of(web.url("/x"), permitted) == "no_answer"


@pytest.fixture
def tls(tmp_path):
    """A TLS server for the name `a.example`, and the certificate that it is trusted by."""
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=a.example", "-addext", "subjectAltName=DNS:a.example"]
    subprocess.run(
        [*command, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    names = []
    context.sni_callback = lambda sock, name, _: names.append(name)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            send(self, 200, b"secure")

        def log_message(self, *words):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1], certificate, names
    server.shutdown()
    server.server_close()


def test_tls_is_checked_against_the_name_not_the_address(tls, permitted, monkeypatch):
    port, certificate, names = tls
    local = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]
    monkeypatch.setattr(address.socket, "getaddrinfo", lambda *a, **k: local)
    settings = permitted.model_copy(update={"hosts": ("*",)})
    assert reason_of(f"https://a.example:{port}/", settings) == "bad_certificate"
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert got(f"https://a.example:{port}/", settings) == b"secure"
    assert names[-1] == "a.example"
    assert reason_of(f"https://b.example:{port}/", settings) == "bad_certificate"
