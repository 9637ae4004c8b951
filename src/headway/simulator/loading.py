"""Loads the engines: compiled where they were, otherwise (or with HEADWAY_INTERPRETED=1) from their sources."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

_PACKAGE = "headway.simulator"


class _Sources:
    """Finds the source of a module of this room before its binary."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:  # noqa: ARG004 - the protocol
        package, _, module = name.rpartition(".")
        source = Path(__file__).with_name(f"{module}.py")
        return importlib.util.spec_from_file_location(name, source) if package == _PACKAGE and source.exists() else None


def load(module: str) -> Any:
    """Return a module of this room that may be compiled; say so once where the core is not."""
    return importlib.import_module(f"{_PACKAGE}.{module}")


if os.environ.get("HEADWAY_INTERPRETED", "0") not in ("", "0"):
    sys.meta_path.insert(0, _Sources)
core = load("core")
#: Whether the engines run compiled.
compiled: bool = core.COMPILED
if not compiled and "HEADWAY_INTERPRETED" not in os.environ:
    sys.stderr.write("headway: the simulator is not compiled and runs interpreted, about 100 times slower\n")
