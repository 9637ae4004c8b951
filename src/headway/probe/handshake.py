"""Why TLS did not come about: what a certificate lacks, and whether a server speaks what its address says."""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress

#: Nobody waits longer than this to learn what a server speaks.
PATIENCE_S = 2.0
#: OpenSSL's numbers (X509_V_ERR_…, x509_vfy.h) -> what to do: not yet valid and expired; another name, address; and
#: the rest are authorities that nobody here knows.
_FIXES = {
    9: "renew it, or set the clock right",
    10: "renew it, or set the clock right",
    62: "use the name that it is made out to",
    64: "use the name or address that it is made out to",
}
_UNTRUSTED = "trust its authority: SSL_CERT_FILE=FILE"


def certificate_fault(error: ssl.SSLCertVerificationError) -> tuple[str, str]:
    """Return why a certificate is refused, and what to do."""
    why = (error.verify_message or str(error)).rstrip(".")
    return f"its certificate is refused: {why}", _FIXES.get(error.verify_code, _UNTRUSTED)


def spoken_instead(scheme: str, host: str, port: int) -> str:
    """Ask a server that did not answer in one scheme whether it does in the other; return that one, empty if not.

    Args:
        scheme: `http` or `https`, as its address has it.
        host: its name or numeric address.
        port: likewise.
    """
    other, answers = ("http", _speaks_http) if scheme == "https" else ("https", _speaks_tls)
    with suppress(OSError), socket.create_connection((host, port), PATIENCE_S) as connection:
        return other if answers(connection) else ""
    return ""


def _speaks_tls(connection: socket.socket) -> bool:
    """Whether it answers a handshake; whoever it is, nothing is sent to it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with context.wrap_socket(connection):
        return True


def _speaks_http(connection: socket.socket) -> bool:
    """Whether it answers in plain words; a 400 is how servers refuse those on a TLS port."""
    connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
    said = connection.recv(64)
    return said.startswith(b"HTTP/1.") and said[8:12] != b" 400"
