"""Whom a client may speak to: loopback and private addresses, and others only where that is allowed."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from headway.errors import InputError

#: Loopback, this host, RFC 1918, and RFC 4193. Link-local addresses are not among them: clouds keep credentials there.
PRIVATE = tuple(
    ipaddress.ip_network(text)
    for text in (
        "127.0.0.0/8",
        "0.0.0.0/32",
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "::1/128",
        "::/128",
        "fc00::/7",
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a server is, resolved once: connections go to these addresses and no others."""

    url: str  # without a slash or `/v1` at its end
    host: str
    port: int
    resolved: tuple[tuple[int, str], ...]  # family and numeric address, in the order to try


def is_private(text: str) -> bool:
    """Whether a numeric address is loopback or private; one of IPv4 in the clothes of IPv6 is what it is inside."""
    found = ipaddress.ip_address(text.partition("%")[0])
    inner = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    address = inner or found
    return any(address in network for network in PRIVATE if network.version == address.version)


def base_of(url: str) -> tuple[str, str, int]:
    """Return the url without `/v1` and a slash at its end, its host and its port.

    Raises:
        InputError: it is no plain http or https address. Credentials in it are not quoted.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise InputError("that is no address", place="url", hint="e.g. http://127.0.0.1:8000") from None
    if parts.username is not None or parts.password is not None or "@" in parts.netloc:
        raise InputError("an address may not hold credentials", place="url", hint="give a key by variable or file")
    if parts.scheme not in ("http", "https") or not host:
        raise InputError(
            f"expected an http or https address, got {url!r}", place="url", hint="e.g. http://127.0.0.1:8000"
        )
    if parts.query or parts.fragment:
        raise InputError("expected an address without ? and #", place="url")
    path = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{path}", host, port or (443 if parts.scheme == "https" else 80)


def checked_address(url: str, *, allow_public: bool = False) -> Address:
    """Resolve an address and make sure that all it stands for may be spoken to.

    Raises:
        InputError: it is no address, its name is not known, or it stands for an address that is not allowed.
    """
    base, host, port = base_of(url)
    try:
        answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else "no such name"
        raise InputError(f"the name {host!r} has no address: {why}", place="url") from None
    resolved = tuple(dict.fromkeys((int(family), str(sockaddr[0])) for family, _, _, _, sockaddr in answers))
    public = [text for _, text in resolved if not is_private(text)]
    if public and not allow_public:
        where = f"{host} is {public[0]}" if host != public[0] else host
        raise InputError(
            f"{where}: neither loopback nor private; a load test there may cost money or do harm",
            place="url",
            hint="--allow-public if it is yours",
        )
    return Address(url=base, host=host, port=port, resolved=resolved)
