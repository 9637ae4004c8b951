"""Server-sent events: the bytes of a stream as the data of its events, and where in the bytes each was complete.

As the WHATWG's HTML standard defines them (section 9.2, server-sent events): lines end with CR LF, LF or CR; an empty
line ends an event; the lines of its `data` fields are joined by LF; comments and other fields are left out.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# atomic: the LF of CR LF is never taken for a line of its own
_BLANK = re.compile(rb"(?>\r\n|\n|\r){2,}")
_LINE_END = re.compile(rb"\r\n|\n|\r")


def events(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield where each event that has data ends, in bytes from the start of the stream, and its data.

    An unfinished last event is given too: some servers close without an empty line.
    """
    start = 3 if raw.startswith(b"\xef\xbb\xbf") else 0
    for blank in _BLANK.finditer(raw, start):
        data = _data(raw[start : blank.start()])
        if data is not None:
            yield blank.start(), data
        start = blank.end()
    data = _data(raw[start:])
    if data is not None:
        yield len(raw), data


def _data(event: bytes) -> bytes | None:
    if event.startswith(b"data: ") and b"\n" not in event and b"\r" not in event:
        return event[6:]  # what all engines send
    fields = (line.partition(b":") for line in _LINE_END.split(event))
    values = [value.removeprefix(b" ") for name, _, value in fields if name == b"data"]
    return b"\n".join(values) if values else None
