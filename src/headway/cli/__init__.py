"""The command line: a thin face over the verbs of `headway.api`.

Each command parses its options, calls one verb and shows what came back: as text for people, or as one JSON document
with `--json`. stdout carries the result alone; progress and errors go to stderr.

* `app.py` the tree of commands, imported one by one as they are asked for, so that `headway --help` stays quick;
* `common.py` the options many commands share, and how a result is shown;
* `terminal.py` renders a `pictures.page.Page` with rich;
* one module per command: its options, and the page its result is shown as.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Exit codes beside those of `HeadwayError` (2 input, 3 infeasible, 4 evidence).
OK, INTERNAL, INTERRUPTED, BROKEN_PIPE = 0, 1, 130, 141


def main(args: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; nothing but the result is written to stdout.

    Args:
        args: the words after `headway`; those of the process where None.
    """
    with contextlib.suppress(AttributeError):  # a captured stream has no encoding to relax
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
        sys.stderr.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        code = _run(args)
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED)
    except Exception as error:  # no traceback reaches a user who did not ask for one
        if os.environ.get("HEADWAY_DEBUG"):
            raise
        return _fail(*_told(error))
    return code


def _run(args: Sequence[str] | None) -> int:
    import click

    from headway.cli.app import app
    from headway.cli.common import ReaderGoneError
    from headway.errors import HeadwayError

    try:
        code = app.main(args=args, prog_name="headway", standalone_mode=False)
    except ReaderGoneError:
        # the interpreter's own flush at exit must find an open stream
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except click.Abort:
        return _fail("interrupted", INTERRUPTED)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        return _fail(_usage(error), error.exit_code)
    except HeadwayError as error:
        return _fail(str(error), error.exit_code)
    return code if isinstance(code, int) else OK


def _usage(error: object) -> str:
    """One line of a usage error, with the command whose help tells more."""
    context = getattr(error, "ctx", None)
    where = f" (see `{context.command_path} --help`)" if context else ""
    return f"{error.format_message().rstrip('.')}{where}"  # type: ignore[attr-defined]


def _told(error: Exception) -> tuple[str, int]:
    """What is said of an error nobody foresaw, and its exit code."""
    if isinstance(error, OSError) and error.strerror and not error.filename:
        return f"cannot write the result: {error.strerror}", INTERNAL
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is not installed; reinstall headway", INTERNAL
    words = " ".join(str(error).split())[:200]
    return (
        f"unexpected {type(error).__name__}: {words} (set HEADWAY_DEBUG=1 for the traceback, and please report it)",
        1,
    )


def _fail(problem: str, code: int) -> int:
    with contextlib.suppress(OSError):
        sys.stderr.write(f"error: {' '.join(problem.split())}\n")
    return code
