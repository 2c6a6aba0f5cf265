"""Sources on the web: what tells that one has changed, tars read in parts, faults that pass."""

import io
import tarfile

import pytest

from infra.errors import ConfigError
from pipelines.sources.address import FetchError
from pipelines.sources.config import SourceSettings
from pipelines.sources.entry import SourceEntry
from pipelines.sources.fetch import fetched
from pipelines.sources.listing import list_sources
from pipelines.sources.web import head
from tests.pipelines.sources.conftest import send


def test_head_gives_what_changes_with_the_content(web, permitted):
    web.answers["/x"] = lambda request: send(request, 200, b"content", ETag='"e"')
    web.answers["/y"] = lambda request: send(request, 200, b"content", Last_Modified="Monday")
    assert head(web.url("/x"), permitted).stamp == '"e"'
    assert head(web.url("/y"), permitted).stamp == "Monday 7"
    assert {command for command, _, _ in web.asked} == {"HEAD"}


def ranged(request):
    span = request.headers.get("Range", "")
    if not span:
        send(request, 200, _TAR, ETag='"e"')
        return
    first, last = map(int, span.removeprefix("bytes=").split("-"))
    send(request, 206, _TAR[first : last + 1], ETag='"e"')


def _tar():

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in (("a.mp4", b"v" * 300_000), ("a.txt", b"words"), ("b.mp4", b"w" * 9)):
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return out.getvalue()


_TAR = _tar()


def test_a_tar_on_the_web_is_read_in_parts(web, permitted):
    web.answers["/t.tar"] = ranged
    settings = SourceSettings(http=permitted)
    first, second = list_sources(web.url("/t.tar"), settings)
    assert (first.caption, second.caption) == ("words", "")
    with fetched(second, settings) as media:
        assert media.data == b"w" * 9


@pytest.mark.parametrize("tag", [{"Last_Modified": "Monday"}, {}])
def test_a_tar_on_a_server_without_etags_is_read_in_parts(web, permitted, tag):
    def answer(request):
        span = request.headers.get("Range", "")
        if not span:
            send(request, 200, _TAR, **tag)
            return
        first, last = map(int, span.removeprefix("bytes=").split("-"))
        where = f"bytes {first}-{last}/{len(_TAR)}"
        send(request, 206, _TAR[first : last + 1], Content_Range=where, **tag)

    web.answers["/t.tar"] = answer
    settings = SourceSettings(http=permitted, retry_wait_s=0)
    first, second = list_sources(web.url("/t.tar"), settings)
    assert (first.caption, second.refusal) == ("words", "")
    with fetched(second, settings) as media:
        assert media.data == b"w" * 9


def test_a_tar_on_the_web_that_changes_after_the_listing_is_noticed(web, permitted):
    web.answers["/t.tar"] = ranged
    settings = SourceSettings(http=permitted, retry_wait_s=0)
    _, second = list_sources(web.url("/t.tar"), settings)
    web.answers["/t.tar"] = lambda request: send(request, 206, b"other way", ETag='"f"')
    with pytest.raises(FetchError, match="changed_while_read") as raised, fetched(second, settings):
        pass
    assert raised.value.retryable


def test_a_tar_on_a_server_without_ranges_is_refused(web, permitted):
    web.answers["/t.tar"] = _TAR
    (bad,) = list_sources(web.url("/t.tar"), SourceSettings(http=permitted))
    assert bad.refusal.startswith("no_ranges: ")


def test_a_url_as_the_source_must_be_allowed():
    with pytest.raises(ConfigError, match="forbidden_host"):
        list(list_sources("https://a.example/x.mp4", SourceSettings()))


def entry_of(url):
    return SourceEntry(url, "root", "?", url)


def test_a_url_is_fetched_again_after_a_passing_fault(web, permitted):
    faults = iter([503, 429])

    def shaky(request):
        status = next(faults, 200)
        send(request, status, b"content" if status == 200 else b"later")

    web.answers["/x"] = shaky
    settings = SourceSettings(http=permitted, retry_wait_s=0)
    with fetched(entry_of(web.url("/x")), settings) as media:
        assert (media.data, media.size_bytes) == (b"content", 7)
    assert len(web.asked) == 3


def test_a_url_over_the_limit_is_refused(web, permitted):
    web.answers["/x"] = b"x" * 101
    settings = SourceSettings(http=permitted, retry_wait_s=0)
    with fetched(entry_of(web.url("/x")), settings, limit_bytes=101) as media:
        assert media.size_bytes == 101
    with (
        pytest.raises(FetchError, match="too_large") as raised,
        fetched(entry_of(web.url("/x")), settings, limit_bytes=100),
    ):
        pass
    assert not raised.value.retryable


def test_a_dead_url_is_not_asked_again_in_the_same_run(web, permitted):
    settings = SourceSettings(http=permitted, retry_wait_s=0)
    with pytest.raises(FetchError, match="http_404"), fetched(entry_of(web.url("/x")), settings):
        pass
    assert len(web.asked) == 1


def test_a_list_whose_query_or_fragment_has_slashes_is_a_list(web, permitted):
    web.answers["/d/l.csv?sig=ab/cd.x"] = b"uri\na.mp4\n"
    settings = SourceSettings(http=permitted)
    for url in ("/d/l.csv?sig=ab/cd.x", "/d/l.csv?sig=ab/cd.x#e/f"):
        (entry,) = list_sources(web.url(url), settings)
        assert (entry.uri, entry.partition) == (web.url("/d/a.mp4"), "root")


def test_a_tar_whose_query_has_slashes_is_a_tar(web, permitted):
    web.answers["/t.tar?sig=ab/cd.x"] = ranged
    web.answers["/l.txt"] = web.url("/t.tar?sig=ab/cd.x").encode()
    settings = SourceSettings(http=permitted)
    for source in ("/t.tar?sig=ab/cd.x", "/l.txt"):
        found = list(list_sources(web.url(source), settings))
        assert [each.uri.rpartition("!/")[2] for each in found] == ["a.mp4", "b.mp4"]
        assert {each.partition for each in found} == {"root"}
