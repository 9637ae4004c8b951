"""API keys: read from where they are kept, shown to nobody."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, NoReturn

from headway.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path


class Key:
    """An API key. Nothing shows it, copies it into a file or compares it: it can only be sent (`authorization`)."""

    __slots__ = ("_quoted", "_secret", "source")

    def __init__(self, secret: str, source: str) -> None:
        """Keep a key.

        Args:
            secret: the key itself; blanks around it are left out.
            source: where it was read, for messages.

        Raises:
            InputError: it is empty, or no header can carry it. The message does not quote it.
        """
        secret = secret.strip()
        if not secret:
            raise InputError("no API key there", place=source)
        if not (secret.isascii() and secret.isprintable()) or " " in secret:
            raise InputError("that is no API key: expected printable ASCII without blanks", place=source)
        self._secret, self.source = secret, source
        self._quoted = re.compile("".join(rf"\\?{re.escape(each)}" for each in secret))

    @classmethod
    def from_environment(cls, variable: str) -> Key:
        """Return the key in an environment variable.

        Raises:
            InputError: it is not set, or holds no key.
        """
        if variable not in os.environ:
            raise InputError("this environment variable is not set", place=variable)
        return cls(os.environ[variable], f"${variable}")

    @classmethod
    def from_file(cls, path: Path) -> Key:
        """Return the key in a file that holds nothing else.

        Raises:
            InputError: it cannot be read, or holds no key.
        """
        try:
            return cls(path.read_text(encoding="utf-8"), str(path))
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read the API key: {_why(error)}", file=path) from None

    @property
    def authorization(self) -> str:
        """What the header of that name says."""
        return f"Bearer {self._secret}"

    def hidden_in(self, text: str) -> str:
        """Return a text with the key in it covered, also where quotes and slashes in it were escaped.

        Servers quote keys they refuse. To be given whole texts only: half a key is not found.
        """
        return self._quoted.sub("…", text)

    def __repr__(self) -> str:
        return f"<Key of {self.source}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key is not written anywhere")


def _why(error: OSError | UnicodeDecodeError) -> str:
    return (error.strerror or "no reason given") if isinstance(error, OSError) else "it is no text"
