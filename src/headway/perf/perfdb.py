"""Curves made of the points themselves, from the tables of timed kernels in an installed `aiconfigurator-core`.

The package (NVIDIA, Apache-2.0; the extra `perfdb`) holds kernels timed on real accelerators, from which the shipped
curves are reduced at build time. Where it is installed it can answer itself, with every point it has, and with those of
newer versions. Offered are the tables whose rows mean what `perf` times:

    gemm         bf16, on each engine; weights a cache served count as streamed (see `_from_memory`)
    collectives  each engine's all-reduce inside a CUDA graph

Everything else is the shipped curve, and the provenance says so. Its end-to-end samples are never read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from headway.errors import InputError
from headway.perf.curves import Curve
from headway.perf.formats import WEIGHT_BYTES
from headway.perf.gemm import matrix_roofline_s
from headway.perf.links import link_bytes_per_s
from headway.types import Provenance

if TYPE_CHECKING:
    from collections.abc import Iterator

    import polars as pl
    from numpy.typing import NDArray

    from headway.types import Accelerator

    Floats = NDArray[np.float64]

PACKAGE, MODULE = "aiconfigurator-core", "aiconfigurator_core"
#: Accelerators of the catalogue -> directories of the tables (its Intel card was timed outside of graphs: left out).
SYSTEMS = {
    "a100-80-sxm": "a100_sxm",
    "b200": "b200_sxm",
    "b300": "b300_sxm",
    "gb200": "gb200",
    "gb300": "gb300",
    "h100-sxm": "h100_sxm",
    "h200-sxm": "h200_sxm",
    "l40s": "l40s",
    "rtx-pro-6000": "rtx_pro_6000_server",
}
#: Directories of the tables -> engines of the catalogue.
ENGINES = {"sglang": "sglang", "trtllm": "tensorrt-llm", "vllm": "vllm"}
_MS, _BF16_BYTES = 1e-3, 2.0
#: Matrices beyond this were streamed however many copies were timed: twice the largest cache of these accelerators.
_STREAMED_BYTES = 2 * 128 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """The tables of an installed package."""

    root: Path  # the folder of the systems
    version: str

    def find(self, system: str, operator: str, file: str) -> Iterator[tuple[str, str, Path]]:
        """Walk (engine, its version, table), the newest version of each engine."""
        for theirs, ours in ENGINES.items():
            known = sorted((self.root / system / operator / theirs).glob(f"*/{file}.parquet"), key=_version)
            if known:
                yield ours, known[-1].parent.name, known[-1]


def _version(table: Path) -> list[tuple[int, int]]:
    """Order versions: 0.9.0 < 0.10.0rc3 < 0.10.0rc20 < 0.10.0 < 0.10.0.post1."""
    words = re.findall(r"\d+|[a-z]+", table.parent.name)
    known = {"post": (2, 0)}
    return [(1, int(word)) if word.isdecimal() else known.get(word, (-1, 0)) for word in words] + [(0, 0)]


def tables() -> Tables:
    """Find the package without importing it.

    Raises:
        InputError: it is not installed, or holds no tables.
    """
    spec = util.find_spec(MODULE)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"{PACKAGE} is not installed", place="curves", hint="pip install 'headway[perfdb]'")
    root = Path(next(iter(spec.submodule_search_locations))) / "systems" / "data"
    if not root.is_dir():
        raise InputError(f"{PACKAGE} {metadata.version(PACKAGE)} holds no tables", file=root, place="curves")
    return Tables(root=root, version=metadata.version(PACKAGE))


#: The last answer by accelerator's name, with the accelerator: reading takes half a second, and pools ask often.
_answers: dict[str, tuple[Accelerator, dict[str, Curve]]] = {}


def measured_curves(accelerator: Accelerator) -> dict[str, Curve]:
    """Return the curves an installed package has of an accelerator, by name; each says which table it is.

    Raises:
        InputError: the package is not installed, or has no table of this accelerator.
    """
    known = _answers.get(accelerator.name)
    if known is None or known[0] != accelerator:
        known = _answers[accelerator.name] = accelerator, _made(tables(), accelerator)
    return known[1]


def _made(found: Tables, accelerator: Accelerator) -> dict[str, Curve]:
    import polars as pl

    system, curves = SYSTEMS.get(accelerator.name, ""), dict[str, Curve]()
    for operator, file, key, make in _KINDS:
        for engine, version, path in found.find(system, operator, file) if system else ():
            origin = Provenance(source=f"{PACKAGE} {found.version}, {file} of {engine} {version}", as_of="")
            curves[key.format(accelerator.name, engine)] = make(accelerator, pl.read_parquet(path), origin)
    if not curves:
        names = ", ".join(name for name, folder in SYSTEMS.items() if (found.root / folder).is_dir())
        problem = f"{PACKAGE} {found.version} has no tables of {accelerator.name}"
        raise InputError(problem, place="curves", hint=f"it has {names}")
    return curves


def _gemm(accelerator: Accelerator, table: pl.DataFrame, origin: Provenance) -> Curve:
    rows = table.filter((table["gemm_dtype"] == "bfloat16") & (table["latency"] > 0))
    for axis in ("n", "k"):  # values that few rows have would leave holes
        count = _count().over(axis)
        rows = rows.filter(2 * count >= count.max())
    rows = rows.group_by("n", "k", "m").agg(_median("latency")).sort("n", "k", "m")
    points = tuple(rows[name].to_numpy().astype(float) for name in ("n", "k", "m"))
    time_s = _from_memory(accelerator, points, _MS * rows["latency"].to_numpy())
    efficiency = np.maximum(*matrix_roofline_s(accelerator, "bf16", *points)) / time_s
    grid = tuple(np.unique(column) for column in points)
    laid = _laid(grid, points, efficiency)
    return Curve(axes=("n", "k", "m"), grid=grid, table=laid, rows=len(time_s), provenance=origin)


def _from_memory(accelerator: Accelerator, points: tuple[Floats, ...], time_s: Floats) -> Floats:
    """Return the times with no weights served by a cache.

    The tables were timed over a few copies of the weights; where these fit the cache together, they bound the time from
    below alone. No time is taken to be shorter than launching and streaming the weights at the rate large ones reach.
    """
    n, k, _ = points
    compute_s, memory_s = map(np.asarray, matrix_roofline_s(accelerator, "bf16", *points))
    weight_bytes = WEIGHT_BYTES["bf16"] * n * k
    launch_s, streamed = time_s.min(), (weight_bytes > _STREAMED_BYTES) & (memory_s > 2 * compute_s)
    rate = np.median(memory_s[streamed] / (time_s[streamed] - launch_s)) if streamed.any() else 1.0
    least_s: Floats = launch_s + weight_bytes / accelerator.hbm_bytes_per_s / rate
    return np.maximum(time_s, least_s)


def _laid(grid: tuple[Floats, ...], points: tuple[Floats, ...], values: Floats) -> Floats:
    """Lay points over the grid of all their coordinates; one the table lacks is as the nearest it has."""
    table = np.full([len(axis) for axis in grid], np.nan)
    table[tuple(np.searchsorted(axis, column) for axis, column in zip(grid, points, strict=True))] = values
    logs = np.log(np.stack(points))
    for index in np.argwhere(np.isnan(table)):
        place = np.log([axis[i] for axis, i in zip(grid, index, strict=True)])
        table[tuple(index)] = values[np.abs(logs - place[:, None]).sum(axis=0).argmin()]
    return table


def _all_reduce(accelerator: Accelerator, table: pl.DataFrame, origin: Provenance) -> Curve:
    """Return all-reduce of bf16 messages, whose sizes the tables give in elements; the last of a group reaches on."""
    rows = table.filter(~table["kernel_source"].str.ends_with("eager") & (table["latency"] > 0))
    rows = rows.group_by("num_gpus", "message_size").agg(_median("latency")).sort("num_gpus", "message_size")
    gpus, size, latency = (rows[name].to_numpy().astype(float) for name in ("num_gpus", "message_size", "latency"))
    groups, sent = np.unique(gpus), 2 * (gpus - 1) / gpus * size * _BF16_BYTES
    link = np.array([link_bytes_per_s(accelerator, int(count)) for count in gpus])
    places, logs = np.unique(sent), np.log(sent / link / (_MS * latency))
    lines = [np.interp(np.log(places), np.log(sent[gpus == count]), logs[gpus == count]) for count in groups]
    return Curve(axes=("gpus", "bytes"), grid=(groups, places), table=np.exp(lines), rows=len(logs), provenance=origin)


def _count() -> pl.Expr:
    import polars as pl

    return pl.len()


def _median(column: str) -> pl.Expr:
    import polars as pl

    return pl.col(column).median()


#: Folder and file of the tables, name of the curve, and what makes it.
_KINDS = (
    ("gemm", "gemm_perf", "gemm/{}/bf16/{}", _gemm),
    ("comm", "custom_allreduce_perf", "collectives/{}/all_reduce/{}", _all_reduce),
)
