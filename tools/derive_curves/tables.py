"""Where the tables lie, whose they are, and what all reductions share."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from headway.catalog import catalog
from headway.perf.perfdb import ENGINES, SYSTEMS
from headway.types import Provenance

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headway.types import Accelerator

OUT = Path(__file__).parents[2] / "src" / "headway" / "perf" / "data" / "curves"
ORIGIN = Provenance(
    source="aiconfigurator-core 0.12.0 (NVIDIA, Apache-2.0), kernels timed by its collectors",
    as_of="2026-11-21",
)

#: Directories of the tables -> our catalogue's names.
ACCELERATORS = {folder: name for name, folder in SYSTEMS.items()} | {"b60": "arc-b60"}
#: L2 cache: NVIDIA's architecture whitepapers; B200 and B300 as their device queries report, Intel's for the B60.
L2_BYTES = {
    "a100-80-sxm": 40 << 20,
    "arc-b60": 18 << 20,
    "b200": 126 << 20,
    "b300": 126 << 20,
    "gb200": 126 << 20,
    "gb300": 126 << 20,
    "h100-sxm": 50 << 20,
    "h200-sxm": 50 << 20,
    "l40s": 96 << 20,
    "rtx-pro-6000": 128 << 20,
}


def accelerator(name: str) -> Accelerator:
    """Return the catalogue's entry, whose datasheet peaks the roofline is drawn with."""
    return catalog.load().accelerator(name)


def tables(root: Path, operator: str, file: str) -> Iterator[tuple[str, str, str, pl.DataFrame]]:
    """Walk the tables of one operator: (accelerator of our catalogue, producer, version, rows), in a fixed order.

    The producer is an engine as we name it, or a library such as nccl.
    """
    data = next(root.glob("**/systems/data"))
    for path in sorted(data.glob(f"*/{operator}/*/*/{file}.parquet")):
        system, _, producer, version = path.parts[-5:-1]
        if system in ACCELERATORS:
            yield ACCELERATORS[system], ENGINES.get(producer, producer), version, pl.read_parquet(path)


def newest(found: Iterator[tuple[str, str, str, pl.DataFrame]]) -> list[tuple[str, str, pl.DataFrame]]:
    """Return (accelerator, producer, rows) of the newest version of each."""
    best: dict[tuple[str, str], tuple[list[int], pl.DataFrame]] = {}
    for name, producer, version, rows in found:
        rank = [int(part) for part in re.findall(r"\d+", version)]
        if rank > best.get((name, producer), ([], None))[0]:
            best[name, producer] = rank, rows
    return [(name, producer, rows) for (name, producer), (_, rows) in sorted(best.items())]
