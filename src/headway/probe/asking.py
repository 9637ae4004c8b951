"""Small questions to a server before a run: what it is, how it counts tokens. Runs themselves go through `client`."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from headway.errors import InputError

if TYPE_CHECKING:
    from headway.probe.keys import Key

#: Nobody waits longer than this for such an answer.
PATIENCE_S = 20.0
#: and nobody reads more of it than this
_MOST_BYTES = 2**26
#: no proxies, as in the client: what is measured is the way to the server itself
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


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
        """Return a page, None where there is none.

        Raises:
            InputError: nobody answers.
        """
        return self._ask(urllib.request.Request(self.url + route))  # noqa: S310 - the scheme was checked

    def told(self, route: str) -> dict[str, Any]:
        """Return a JSON object, empty where there is none.

        Raises:
            InputError: nobody answers.
        """
        return _object(self.get(route))

    def post(self, route: str, body: dict[str, Any]) -> dict[str, Any]:
        """Return the JSON object a body is answered with, empty where it is refused.

        Raises:
            InputError: nobody answers.
        """
        data, kind = json.dumps(body).encode(), {"Content-Type": "application/json"}
        return _object(self._ask(urllib.request.Request(self.url + route, data, kind)))  # noqa: S310 - as above

    def _ask(self, request: urllib.request.Request) -> str | None:
        if self.key is not None:
            request.add_unredirected_header("Authorization", self.key.authorization)  # for this server alone
        try:
            with _OPENER.open(request, timeout=PATIENCE_S) as answer:
                return str(answer.read(_MOST_BYTES).decode("utf-8", errors="replace"))
        except urllib.error.HTTPError as error:
            error.close()
            if error.code in (401, 403):
                hint = "give an API key" if self.key is None else f"the key of {self.key.source} is refused"
                raise InputError(f"refuses to answer ({error.code})", file=self.url, hint=hint) from None
            return None
        except (OSError, ValueError) as error:
            raise InputError(f"nobody answers: {_why(error)}", file=self.url, hint="is the server up?") from None


def base(url: str) -> str:
    """Return an address as `Endpoint.url` has it: scheme, host and port, no `/v1`, no credentials.

    Raises:
        InputError: not an address of that kind. Credentials in it are refused without being quoted.
    """
    parts = urlsplit(url if "//" in url else f"http://{url}")
    if parts.username or parts.password:
        raise InputError(
            "an address must not hold credentials", place="url", hint="give the key by file or environment"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(f"expected an address such as http://127.0.0.1:8000, got {url!r}", place="url")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/').removesuffix('/v1')}"


def _object(page: str | None) -> dict[str, Any]:
    try:
        found = json.loads(page or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _why(error: Exception) -> str:
    reason = getattr(error, "reason", error)
    if isinstance(reason, ssl.SSLError):
        return f"TLS: {reason.reason or reason}"
    return str(getattr(reason, "strerror", None) or reason) or type(error).__name__
