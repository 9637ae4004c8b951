"""The one tree of errors; each ends in one line a reader can act on."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class HeadwayError(Exception):
    """Anything headway refuses to do; `exit_code` is what the command line returns for it."""

    exit_code = 1


class InputError(HeadwayError):
    """Something given to headway is wrong.

    Args:
        problem: what is wrong and what was expected, in one line.
        file: the file (or argument) it stands in.
        place: the place in it: a key path such as `slo.ttft.p95`, `line 12`, `row 40`, or both.
        hint: the nearest fix.
    """

    exit_code = 2

    def __init__(self, problem: str, *, file: object = None, place: str = "", hint: str = "") -> None:
        self.problem, self.file = _one_line(problem), _one_line(str(file)) if file else ""
        self.place, self.hint = _one_line(place), _one_line(hint)
        where = ": ".join(part for part in (self.file, self.place) if part)
        super().__init__(f"{where}: " * bool(where) + self.problem + f" ({self.hint})" * bool(hint))


class InfeasibleError(HeadwayError):
    """What is asked for cannot be met.

    Args:
        problem: what cannot be met, in one line.
        binding: the constraint that binds, e.g. `hbm_bytes` or `ttft p95`.
        relaxation: the nearest change that would make it feasible.
        shortfall: by how much it is missed, by name with the unit in the name (`missing_bytes`).
    """

    exit_code = 3

    def __init__(
        self, problem: str, *, binding: str, relaxation: str = "", shortfall: Mapping[str, float] | None = None
    ) -> None:
        self.problem, self.binding, self.relaxation = problem, binding, relaxation
        self.shortfall = dict(shortfall or {})
        super().__init__(f"{problem}; {binding} binds{f'; nearest feasible: {relaxation}' if relaxation else ''}")


class EvidenceError(HeadwayError):
    """There is too little to answer from; the message says what is missing."""

    exit_code = 4


def _one_line(text: str, longest: int = 400) -> str:
    """Keep an error on one line of bounded length, whatever was in the input it quotes."""
    line = "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text[: longest + 1])
    return line if len(text) <= longest else line[:longest] + "…"


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a hint naming the known word nearest to `word`, or a few known words where none is near."""
    names = list(known)
    folded = {name.casefold(): name for name in reversed(names)}  # the first spelling of a name wins
    close = difflib.get_close_matches(word.casefold(), folded, n=1, cutoff=0.55)
    if close:
        return f"did you mean {folded[close[0]]!r}?"
    shown = ", ".join(sorted(names)[:8])
    return f"known: {shown}{', …' if len(names) > 8 else ''}"
