"""Work that may wait for a server, beside the event loop."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
P = ParamSpec("P")


async def apart(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what a function returns, or raise what it raises, from a thread of its own.

    The threads of `asyncio.to_thread` are few, and a run would wait for them when it is interrupted; nobody waits for
    this one: once its result is not needed, it goes on for nobody.
    """
    found: Future[T] = Future()

    def run() -> None:
        try:
            found.set_result(work(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            found.set_exception(error)

    found.set_running_or_notify_cancel()
    threading.Thread(target=run, daemon=True).start()
    return await asyncio.wrap_future(found)
