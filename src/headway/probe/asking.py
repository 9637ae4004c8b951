"""Small questions to a server: what it is, how it counts tokens, what it scraped. Runs themselves go through `client`.

Redirects are not followed: whoever was asked was checked and given a key, and whoever it points to was not.
"""

from __future__ import annotations

import http.client
import json
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urljoin, urlsplit

from headway.errors import InputError
from headway.probe.address import base_of
from headway.probe.handshake import certificate_fault, spoken_instead

if TYPE_CHECKING:
    from headway.probe.keys import Key

#: Nobody waits longer than this for such an answer.
PATIENCE_S = 20.0
#: and nobody reads more of it than this
_MOST_BYTES = 2**26


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows nothing: a redirect is then an error with its code."""

    def redirect_request(self, *_what: Any) -> None:
        """Say that there is no other request to make."""


#: no proxies, as in the client: what is measured is the way to the server itself
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}), _Stay)


@dataclass(frozen=True, slots=True)
class Server:
    """A server that can be asked.

    Attributes:
        url: where its API is, without `/v1`.
        key: sent as a bearer token.
    """

    url: str
    key: Key | None = None

    def get(self, route: str) -> str | None:
        """Return a page, None where there is none for us: a proxy may guard what beside the API it does not need.

        Raises:
            InputError: nobody answers, or another address is pointed to.
        """
        return self._ask(urllib.request.Request(self.url + route))  # noqa: S310 - the scheme was checked

    def told(self, route: str) -> dict[str, Any]:
        """Return a JSON object, empty where there is none.

        Raises:
            InputError: nobody answers, or another address is pointed to.
        """
        return _object(self.get(route))

    def needed(self, route: str) -> dict[str, Any]:
        """Return the JSON object of a route that every server has, empty where this one has it not.

        Raises:
            InputError: nobody answers, another address is pointed to, or the server does not answer us, or not now.
        """
        return _object(self._ask(urllib.request.Request(self.url + route), needed=True))  # noqa: S310 - as above

    def post(self, route: str, body: dict[str, Any], *, needed: bool = False) -> dict[str, Any]:
        """Return the JSON object a body is answered with, empty where it is refused.

        Args:
            route: beside the API, or where `needed`, of it.
            body: what to ask.
            needed: whether nothing can be done without the answer.

        Raises:
            InputError: nobody answers, or another address is pointed to; where `needed`, likewise what `needed` raises.
        """
        data, kind = json.dumps(body).encode(), {"Content-Type": "application/json"}
        asked = urllib.request.Request(self.url + route, data, kind)  # noqa: S310 - as above
        return _object(self._ask(asked, needed=needed))

    def _ask(self, request: urllib.request.Request, *, needed: bool = False) -> str | None:
        try:
            return str(opened(request, self.key, PATIENCE_S).decode("utf-8", errors="replace"))
        except urllib.error.HTTPError as error:
            if needed and error.code in (401, 403):
                hint = "give an API key" if self.key is None else f"the key of {self.key.source} is refused"
                raise InputError(f"refuses to answer ({error.code})", file=request.full_url, hint=hint) from None
            if needed and error.code >= 500:
                hint = "still loading?" if error.code == 503 else "look at what the server logs"
                raise InputError(f"answers {error.code}", file=request.full_url, hint=hint) from None
            return None


def opened(request: urllib.request.Request, key: Key | None, patience_s: float) -> bytes:
    """Ask one question of an address that was checked, and return the answer.

    Raises:
        urllib.error.HTTPError: the answer is an error; it is closed.
        InputError: nobody answers, or another address is pointed to.
    """
    if key is not None:
        request.add_unredirected_header("Authorization", key.authorization)
    try:
        with _OPENER.open(request, timeout=patience_s) as answer:
            return bytes(answer.read(_MOST_BYTES))
    except urllib.error.HTTPError as error:
        error.close()
        if 300 <= error.code < 400:
            _redirected(request.full_url, error)
        raise
    except (OSError, ValueError, http.client.HTTPException) as error:
        _unanswered(request.full_url, error)


def _redirected(url: str, error: urllib.error.HTTPError) -> NoReturn:
    """Say where a redirect points, without what a query may hold."""
    to = urlsplit(urljoin(url, error.headers.get("Location", "")))
    where = f"{to.scheme}://{to.netloc.rpartition('@')[2]}{to.path.removesuffix(urlsplit(url).path)}"
    hint = f"give the address that answers itself: {where}"
    raise InputError(f"points elsewhere ({error.code}), and redirects are not followed", file=url, hint=hint) from None


def _unanswered(url: str, error: Exception) -> NoReturn:
    """Say why nobody answers: a certificate, the wrong scheme, or what the network says."""
    reason = getattr(error, "reason", error)
    problem, hint = f"nobody answers: {_why(reason)}", "is the server up?"
    if isinstance(reason, ssl.SSLCertVerificationError):
        problem, hint = certificate_fault(reason)
    elif not isinstance(reason, ConnectionRefusedError):
        base, host, port = base_of(url.partition("?")[0])
        scheme, _, rest = base.partition("://")
        if other := spoken_instead(scheme, host, port):
            problem, hint = f"it speaks {other}, not {scheme}", f"give {other}://{urlsplit(f'//{rest}').netloc}"
    raise InputError(problem, file=url, hint=hint) from None


def _object(page: str | None) -> dict[str, Any]:
    try:
        found = json.loads(page or "{}")
    except (ValueError, RecursionError):  # also one nested without end
        return {}
    return found if isinstance(found, dict) else {}


def _why(reason: object) -> str:
    if isinstance(reason, ssl.SSLError):
        return f"TLS: {reason.reason or reason}"
    return str(getattr(reason, "strerror", None) or reason) or type(reason).__name__
