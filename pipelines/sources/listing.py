"""List a source: a folder, glob or prefix, a file, a tar, a list or manifest, or a URL.

    for entry in list_sources("s3://bucket/videos", SourceSettings()):
        ...

Entries stream: nothing holds them all.
"""

import itertools
import logging
from collections.abc import Iterator

from infra import storage
from infra.errors import ConfigError, DataError
from infra.storage import FileInfo
from pipelines.ingest_config import AcceptSettings
from pipelines.sources.address import FetchError, is_web, parsed
from pipelines.sources.config import SourceSettings
from pipelines.sources.entry import UNCHECKED, SourceEntry
from pipelines.sources.folder import TAR, base_of, globbed, is_glob, list_folder, list_tar
from pipelines.sources.manifest import is_manifest, list_manifest, suffix_of
from pipelines.sources.place import facts_of, needs

log = logging.getLogger(__name__)

_PACKED = (".tar.gz", ".tgz", ".tar.zst", ".tar.bz2", ".tar.xz")


def source_root(source: str) -> str:
    """Return the address of a source as the tables have it; what vanishes is counted within it.

    Raises:
        ConfigError: The address is empty, or of a scheme that is not known.
    """
    if not source:
        raise ConfigError(
            "source is not set; give a folder, a file, a glob, s3://..., a list or manifest, a "
            ".tar or a URL, such as --source /data/videos"
        )
    scheme, found, _ = source.partition("://")
    if found and scheme not in ("file", "s3") and not is_web(source):
        raise ConfigError(
            f"source {source}: scheme '{scheme}' is not known; accepted: a path, file://, s3://, "
            "http(s)://"
        )
    return source if is_web(source) else storage.absolute(source).rstrip("/") or "/"


def list_sources(
    source: str, settings: SourceSettings, suffixes: tuple[str, ...] = AcceptSettings().suffixes
) -> Iterator[SourceEntry]:
    """Yield every video and image of a source.

    Args:
        source: Its address.
        settings: How it is listed.
        suffixes: Endings of media, for folders, globs and tars; a list may name anything.

    Raises:
        DataError: There is nothing at the address, or nothing that is media.
        ConfigError: The address is of no kind that is known.
        ServiceError: S3 does not answer.
    """
    root = source_root(source)
    if root.lower().endswith(_PACKED):
        raise ConfigError(
            f"source {source}: a packed tar cannot be read in parts; unpack it to a .tar"
        )
    if storage.is_s3(root) and is_glob("/".join(root.split("/")[:3])):
        raise ConfigError(f"source {source}: wildcards may stand behind the bucket only")
    if is_web(root):
        yield from _web(root, settings, suffixes)
        return
    info = facts_of(root, settings)
    if info is not None:
        yield from _file(info, settings, suffixes)
    elif is_glob(root) and not _is_folder(root):
        yield from _glob(root, settings, suffixes)
    elif not storage.is_s3(root) and not _is_folder(root):
        raise DataError(
            f"source {source}: no such folder or file; give a folder with videos or images, a "
            "file, a glob, a list or manifest"
        )
    else:
        yield from list_folder(root, storage.list_files(root), settings, suffixes)


def _file(
    info: FileInfo, settings: SourceSettings, suffixes: tuple[str, ...]
) -> Iterator[SourceEntry]:
    """Yield what one file holds."""
    if is_manifest(info.uri):
        yield from list_manifest(info.uri, settings, suffixes)
        return
    folder = info.uri.rpartition("/")[0] or "/"
    beside: Iterator[FileInfo | None] = (facts_of(uri, settings) for uri in _beside(info.uri))
    found = sorted([info, *filter(None, beside)], key=lambda each: each.uri)
    yield from list_folder(folder, found, settings, suffixes)


def _beside(uri: str) -> tuple[str, ...]:
    stem = uri.rpartition(".")[0]
    return (f"{stem}.txt", f"{stem}.json") if "/" in stem and not uri.endswith(".tar") else ()


def _glob(
    pattern: str, settings: SourceSettings, suffixes: tuple[str, ...]
) -> Iterator[SourceEntry]:
    if is_manifest(pattern):
        manifests = globbed(pattern)
        first = needs(next(manifests, None), pattern)
        for info in itertools.chain([first], manifests):
            yield from list_manifest(info.uri, settings, suffixes)
        return
    infos = globbed(pattern, with_texts=True)
    yield from list_folder(base_of(pattern), infos, settings, suffixes, pattern)


def _web(url: str, settings: SourceSettings, suffixes: tuple[str, ...]) -> Iterator[SourceEntry]:
    try:
        parsed(url, settings.http)
        if is_manifest(url):
            yield from list_manifest(url, settings, suffixes)
        elif suffix_of(url) == TAR:
            info = needs(facts_of(url, settings), url)
            yield from list_tar(info, url.rpartition("/")[0] + "/", settings, suffixes)
        else:
            yield SourceEntry(url, "root", UNCHECKED, url)
    except FetchError as fault:
        raise ConfigError(f"source {url}: {fault}") from fault


def _is_folder(uri: str) -> bool:
    return not storage.is_s3(uri) and storage.local_path(uri).is_dir()
