"""Which web addresses may be asked: scheme, host, and the IP address that is really connected to.

A name is resolved once, and the connection goes to the address that was checked, so a name that
changes its meaning between check and use (DNS rebinding) gains nothing.
"""

import ipaddress
import re
import socket
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from infra.errors import DataError
from pipelines.sources.config import HttpSettings

_PORTS = {"http": 80, "https": 443}
_KEPT = "/:?&=+,;@!$'()*~%[]"  # as they are in a path or query
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

Ip = ipaddress.IPv4Address | ipaddress.IPv6Address


class FetchError(DataError):
    """Media that cannot be had, with the reason it is counted under."""

    def __init__(self, reason: str, message: str, retryable: bool = True) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason, self.message, self.retryable = reason, message, retryable

    def __reduce__(self) -> tuple[type["FetchError"], tuple[str, str, bool]]:
        return type(self), (self.reason, self.message, self.retryable)


@dataclass(frozen=True)
class Target:
    """A URL in parts, ready for a request."""

    scheme: str
    host: str
    port: int
    path: str


def is_web(uri: str) -> bool:
    """Return whether the address is one of HTTP."""
    return uri.lower().startswith(("http://", "https://"))


def bare(uri: str) -> str:
    """Return a web address without its query and fragment; any other as it is."""
    return re.split(r"[?#]", uri, maxsplit=1)[0] if is_web(uri) else uri


def parsed(url: str, settings: HttpSettings) -> Target:
    """Return the parts of a URL that may be asked.

    Raises:
        FetchError: It is malformed, or its scheme or host is not among those allowed.
    """
    if re.search(r"[\x00-\x1f\x7f\\]", url):
        raise FetchError("bad_url", f"{url!r} has control characters or a backslash", False)
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS.get(parts.scheme, 0)
        host = (parts.hostname or "").rstrip(".").encode("idna").decode().lower()
    except (ValueError, UnicodeError) as fault:
        raise FetchError("bad_url", f"{url!r}: {fault}", False) from fault
    if parts.scheme not in settings.schemes:
        raise FetchError(
            "forbidden_scheme",
            f"'{parts.scheme}' in {url}; accepted: {', '.join(settings.schemes)} "
            "(setting sources.http.schemes)",
            False,
        )
    if parts.username is not None or parts.password is not None:
        raise FetchError("forbidden_credentials", f"user name or password in {host}'s URL", False)
    if not host or not any(_matches(host, allowed.lower()) for allowed in settings.hosts):
        raise FetchError(
            "forbidden_host",
            f"'{host}' in {url}; accepted: {', '.join(settings.hosts) or 'none'} "
            "(setting sources.http.hosts)",
            False,
        )
    query = f"?{parts.query}" if parts.query else ""
    return Target(parts.scheme, host, port, quote((parts.path or "/") + query, safe=_KEPT))


def resolved(target: Target, settings: HttpSettings) -> list[str]:
    """Return the IP addresses of the host that may be connected to, the best first.

    Raises:
        FetchError: The host has no address, or only forbidden ones.
    """
    try:
        found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as fault:
        raise FetchError("unknown_host", f"{target.host}: {fault}") from fault
    addresses = list(dict.fromkeys(str(info[4][0]) for info in found))
    allowed = [each for each in addresses if settings.allow_private or is_public(each)]
    if allowed:
        return allowed
    raise FetchError(
        "forbidden_address",
        f"{target.host} is {', '.join(addresses)}, which is no public address "
        "(setting sources.http.allow_private)",
        False,
    )


def is_public(address: str) -> bool:
    """Return whether an IP address lies on the public internet, whichever way it is wrapped."""
    found: Ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        if found.is_site_local:
            return False
        inner = [found.ipv4_mapped, found.sixtofour, *(found.teredo or ())]
        if found in _NAT64 or found in ipaddress.ip_network("::/96"):
            inner.append(ipaddress.IPv4Address(int(found) & 0xFFFFFFFF))
        wrapped = [each for each in inner if each is not None]
        if wrapped:
            return all(is_public(str(each)) for each in wrapped)
    return found.is_global and not (found.is_multicast or found.is_reserved)


def _matches(host: str, allowed: str) -> bool:
    if allowed.startswith("*."):
        return host.endswith(allowed[1:])
    return allowed in ("*", host)
