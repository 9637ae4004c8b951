"""Why a request was not answered in full: which code an error has, and what it means in one sentence."""

from __future__ import annotations

import errno
import ssl

import aiohttp

from headway.probe.handshake import certificate_fault

#: code of `nouns.ERRORS` -> what it means, for the report.
EXPLAINED = {
    "refused": "Nobody listened at the address.",
    "tls": "TLS did not come about: a certificate that is not trusted, or a side that does not speak it.",
    "connection": "The connection could not be made, or broke before the first byte of an answer.",
    "redirected": "The server pointed to another address; redirects are not followed.",
    "status-4xx": "The server refused the request: its own words stand beside this.",
    "status-429": "The server said it had too much to do (429), as often as retries were allowed.",
    "status-5xx": "The server failed on the request.",
    "status-503": "The server was not available (503), as often as retries were allowed.",
    "disconnected": "The stream ended in the middle of the answer.",
    "malformed": "What came was no stream of events as the API defines it.",
    "server-error": "The server accepted the request (200) and answered with an error.",
    "no-tokens": "The answer was complete and had no token.",
    "stopped-early": "The answer had fewer tokens than it was told to have, though stop tokens were to be ignored.",
    "too-long": "The answer had more tokens than max_tokens allows.",
    "timeout": "The request took longer than the time a request is given.",
    "stalled": "The server sent nothing for longer than the stall timeout.",
    "cancelled": "The client hung up when the load said so.",
    "interrupted": "The run ended while the request was in flight.",
    "not-sent": "The run ended before the request was due, or an earlier turn of its session failed.",
}


def code_of(error: Exception, *, answered: bool, shaking: bool = False) -> str:
    """Return the code of an error of the client library.

    Args:
        error: what was raised.
        answered: whether some of the answer had come.
        shaking: whether it came in the middle of a TLS handshake.
    """
    if shaking or isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientSSLError | ssl.SSLError):
        return "tls"
    if isinstance(error, OSError) and error.errno == errno.ECONNREFUSED:
        return "refused"
    if answered:
        return "disconnected"
    return "malformed" if isinstance(error, aiohttp.ClientResponseError) else "connection"


def message_of(error: Exception) -> str:
    """Return what an error of the client library says, of a certificate what it lacks."""
    inner = error.certificate_error if isinstance(error, aiohttp.ClientConnectorCertificateError) else error
    return f"{certificate_fault(inner)[0]}." if isinstance(inner, ssl.SSLCertVerificationError) else str(error)


def code_of_status(status: int) -> str:
    """Return the code of an HTTP status that is no success."""
    if status in (429, 503):
        return f"status-{status}"
    if status < 400:
        return "redirected"
    return "status-4xx" if status < 500 else "status-5xx"
