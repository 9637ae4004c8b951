"""What is wrong with a row, or has to be known to read its score: found, named and counted, never skipped.

Numbers that cannot be (a token faster than its weights can be read, a closed loop that breaks Little's law), fields
that contradict each other, names nobody knows, rows that stand twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from headway.perf.formats import WEIGHT_BYTES, compute_format
from headway.validation.measurements import Finding

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from headway.validation.configuration import Configured
    from headway.validation.measurements import Measurement

#: Assumptions that are findings too: something in the row is unknown or contradicts itself.
REPORTED = (
    "unknown_model",
    "unknown_accelerator",
    "unknown_engine",
    "unknown_format",
    "model_stand_in",
    "accelerator_stand_in",
    "engine_stand_in",
    "gpus_contradict",
    "gpus_squared",
    "does_not_fit",
    "drafts_ambiguous",
    "isl_unknown",
    "osl_unknown",
    "rate_unknown",
    "concurrency_unknown",
)
#: A closed loop holds N = X · R; what is measured of both differs by ends, means and medians, but not by half.
LITTLE_LEAST, LITTLE_MOST = 0.67, 1.5


def check(rows: Sequence[tuple[Measurement, Configured]]) -> tuple[Finding, ...]:
    """Return all findings on rows as they are replayed, in the order of the rows."""
    found = [finding for row, configured in rows for finding in findings_of(row, configured)]
    found += duplicates([row for row, _ in rows])
    return tuple(sorted(found, key=lambda finding: finding.line))


def findings_of(row: Measurement, configured: Configured) -> list[Finding]:
    """Return what is wrong with one row by itself."""
    found = [(said.code, said.text) for said in configured.assumptions if said.code in REPORTED]
    found += _fields(row)
    for reason in (_below_reads(row, configured), _below_products(row, configured), _little(row, configured)):
        found += [reason] if reason else []
    return [Finding(row=row.row, line=row.line, code=code, reason=reason) for code, reason in found]


def duplicates(rows: Sequence[Measurement]) -> list[Finding]:
    """Return a finding for each row that says, or measured, the same as one before it."""
    first: dict[object, Measurement] = {}
    found = []
    for row in rows:
        before = first.setdefault(_content(row), row)
        if before is not row:
            reason = f"the same configuration, load and figures as row {before.row}"
            found.append(Finding(row=row.row, line=row.line, code="duplicate", reason=reason))
    known = {one.row for one in found}
    for one, *others in repeats(rows):
        for row in others:
            if row.row not in known:
                reason = f"the same load and figures as row {one.row}, described otherwise"
                found.append(Finding(row=row.row, line=row.line, code="same_measurement", reason=reason))
    return found


def repeats(rows: Iterable[Measurement]) -> list[list[Measurement]]:
    """Return measurements that stand in the table more than once, however they are described, by their rows.

    Two figures or more that agree to the last digit at the same load are one measurement. A dump that lists it under
    another spread or version must neither count as two nor be fitted in one fold and scored in another.
    """
    found: dict[object, list[Measurement]] = {}
    for row in rows:
        if sum(len(statistics) for statistics in row.measured.values()) > 1:
            found.setdefault((row.hardware, row.engine, _load(row), _figures(row)), []).append(row)
    return [same for same in found.values() if len(same) > 1]


def _load(row: Measurement) -> object:
    return (row.isl_tokens, row.osl_tokens, row.mode, row.concurrency, row.request_rate_per_s)


def _figures(row: Measurement) -> object:
    return tuple((m, s, v) for m, stats in sorted(row.measured.items()) for s, v in sorted(stats.items()))


def _content(row: Measurement) -> object:
    shape = (row.gpus, row.tp, row.pp, row.ep, row.dp, row.weight_dtype, row.kv_dtype, row.features)
    return (row.model, row.hardware, row.engine, row.engine_version, shape, _load(row), _figures(row))


def _fields(row: Measurement) -> list[tuple[str, str]]:
    """Return fields that are impossible or contradict each other."""
    counts = ("gpus", "tp", "pp", "ep", "dp", "concurrency")
    zeros = [name for name in counts if getattr(row, name) == 0]
    found = [("impossible_number", f"{name} is 0: taken as not stated") for name in zeros]
    if row.mode == "rate" and row.request_rate_per_s is None and row.concurrency:
        found.append(("contradictory_fields", "an open loop with a concurrency and no rate"))
    for metric, statistics in row.measured.items():
        middle, tail = statistics.get("p50"), statistics.get("p99")
        if middle is not None and tail is not None and tail < middle:
            found.append(("impossible_number", f"{metric}: its p99 {tail:g} is below its p50 {middle:g}"))
    ttft, whole = row.value("ttft_s"), row.value("e2e_s")
    if ttft and whole and ttft > 1.05 * whole:
        found.append(("contradictory_fields", f"TTFT {ttft:g} s is more than E2E {whole:g} s"))
    return found


def read_floor_s(configured: Configured) -> float:
    """Return the least time between tokens: one GPU reads its share of the weights one token touches.

    Drafts divide it: so many tokens may come of one read.
    """
    pool = configured.pool
    share = pool.model.params_active * WEIGHT_BYTES[pool.weight_dtype] / (pool.parallelism.tp * pool.parallelism.dp)
    drafts = configured.speculation.num_speculative_tokens if configured.speculation else 0
    return share / pool.accelerator.hbm_bytes_per_s / (1 + drafts)


def _below_reads(row: Measurement, configured: Configured) -> tuple[str, str] | None:
    tpot, floor = row.value("tpot_s"), read_floor_s(configured)
    if tpot is None or tpot >= floor:
        return None
    code = "impossible_number" if tpot == 0 else "below_weight_reads"
    return (
        code,
        f"TPOT {tpot * 1e3:.3g} ms: reading the weights alone takes {floor * 1e3:.3g} ms (drafts nobody marked?)",
    )


def _below_products(row: Measurement, configured: Configured) -> tuple[str, str] | None:
    """A prompt costs two operations per weight and token, at most at the peak of all GPUs of its replica."""
    ttft, pool, prompt = row.value("ttft_s"), configured.pools[0], row.isl_tokens
    if ttft is None or prompt is None or configured.load.prefix_tokens:
        return None
    peak = pool.accelerator.peak_flops_per_s[compute_format(pool.weight_dtype, pool.accelerator)]
    floor = 2 * pool.model.params_active * configured.load.isl_tokens.low / (peak * pool.parallelism.gpus)
    if ttft >= floor:
        return None
    return (
        "below_peak_compute",
        f"TTFT {ttft * 1e3:.3g} ms: at the peak the prompt takes {floor * 1e3:.3g} ms (cached?)",
    )


def _little(row: Measurement, configured: Configured) -> tuple[str, str] | None:
    """Compare clients with requests per second times seconds per request."""
    clients, served = row.concurrency, row.value("requests_per_s")
    tokens, load = row.value("output_tokens_per_s"), configured.load
    if row.mode != "concurrency" or not clients or configured.per_gpu or configured.static_batch:
        return None
    if served is None and tokens is not None and row.osl_tokens:
        served = tokens / row.osl_tokens.mean
    each = row.value("e2e_s") or _e2e_s(row, load.osl_tokens.mean)
    if not served or not each:
        return None
    ratio = served * each / clients
    if LITTLE_LEAST <= ratio <= LITTLE_MOST:
        return None
    return "violates_little", f"{served:.3g}/s × {each:.3g} s is {ratio:.2f} of {clients} clients"


def _e2e_s(row: Measurement, osl: float) -> float | None:
    ttft, tpot = row.value("ttft_s"), row.value("tpot_s")
    return None if ttft is None or tpot is None else ttft + max(osl - 1, 0) * tpot
