"""Loads the core: compiled where it was compiled, otherwise (or with HEADWAY_INTERPRETED=1) from its source."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

_NAME = "headway.simulator.core"


def _from_source() -> Any:
    spec = importlib.util.spec_from_file_location(_NAME, Path(__file__).with_name("core.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[_NAME] = module
    spec.loader.exec_module(module)
    return module


def _load() -> Any:
    if os.environ.get("HEADWAY_INTERPRETED", "0") not in ("", "0"):
        return _from_source()
    module = importlib.import_module(_NAME)
    if not module.COMPILED:
        sys.stderr.write("headway: the simulator core is not compiled and runs interpreted, about 100 times slower\n")
    return module


core = _load()
#: Whether the core runs compiled.
compiled: bool = core.COMPILED
