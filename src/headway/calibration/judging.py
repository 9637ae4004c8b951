"""From a fit to a calibration: each run predicted by a fit that left it out, bands from that, what is not told."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import t as student

from headway.calibration.fitting import LEAST_RUNS, fit
from headway.calibration.parameters import most_in_flight, parameters
from headway.calibration.predicting import FIGURES
from headway.calibration.runs import independent
from headway.calibration.simulated import largest_step, simulated_times, stated_logs
from headway.perf.endpoint import SCALARS, EndpointCalibration, FittedRun, Uncertainty
from headway.perf.endpoint_steps import step_table
from headway.types import Replica

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from headway.calibration.fitting import Fit
    from headway.calibration.runs import Run, Stated
    from headway.types import EngineSettings, FloatColumn

#: An entry whose standard deviation the runs left at more than this share of the prior's is not identified.
_UNTOLD_FRAC = 0.7
#: Beyond this many fewer draws suffice: only a spread is taken of them.
_DRAWS = 24
_ASSUMED_DRIFT = f"assumed: fewer than {LEAST_RUNS} independent runs do not tell how far they lie apart"
_CONFIDENCE_FRAC = 0.9


def judge(
    found: Fit,
    runs: Sequence[Run],
    settings: EngineSettings,
    num_gpu_blocks: int,
    *,
    about: Mapping[str, str],
    progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> EndpointCalibration:
    """Return the calibration: the fit, its uncertainty, and how it did on every run it was fitted without.

    Args:
        found: the fit to all runs.
        runs: what it was fitted to.
        settings: the engine's.
        num_gpu_blocks: its KV blocks.
        about: `name`, `made`, `engine`, `engine_version`, `model`, `hardware`, `weight_dtype`, `kv_dtype`.
        progress: told how many runs have been left out, of how many.
    """
    errors: list[dict[str, float]] = [{} for _ in runs]
    spreads: list[dict[str, float]] = [{} for _ in runs]
    alone = independent(runs)
    for done, left_out in enumerate(alone if len(alone) >= LEAST_RUNS else (), 1):
        others = [run for k, run in enumerate(runs) if k not in left_out]
        params = parameters(others, settings, like=found.parameters)
        without = fit(others, settings, num_gpu_blocks, params=params)
        for k in left_out:
            leave = _predicted if runs[k].stated is None else _predicted_stated
            predicted, spreads[k] = leave(without, runs[k], settings, num_gpu_blocks)
            errors[k] = _log_ratios(predicted, run_figures(runs[k]))
        progress(done, len(alone))
    misfit = _misfits(errors, spreads)
    return EndpointCalibration(
        name=about["name"],
        made=about["made"],
        engine=about["engine"],
        engine_version=about["engine_version"],
        model=about["model"],
        hardware=about["hardware"],
        tp=int(about.get("tp", "1")),
        weight_dtype=about["weight_dtype"],
        kv_dtype=about["kv_dtype"],
        settings=settings,
        num_gpu_blocks=num_gpu_blocks,
        terms=found.terms,
        uncertainty=Uncertainty(
            terms=found.parameters.names,
            covariance=tuple(tuple(map(float, row)) for row in found.covariance),
            drift_log_sd=found.drift_log_sd,
            misfit_log_sd=misfit,
            not_identified=_untold(found) | ({} if len(alone) >= LEAST_RUNS else {"drift_log_sd": _ASSUMED_DRIFT}),
        ),
        bands_frac={name: band for name in FIGURES if (band := _band(errors, name)) is not None},
        valid=_valid(found, runs, settings, num_gpu_blocks),
        runs=tuple(_fitted(run, errors[k]) for k, run in enumerate(runs)),
    )


def run_figures(run: Run) -> dict[str, float]:
    """Return the measured figures of a run, over its answered requests, from the time each was sent."""
    if run.stated is not None:
        return {name: run.stated.figures[k].value_s for k, name in _named(run.stated).items()}
    sends_s = run.requests.arrive_s if run.concurrency is None else run.sends_s
    return _figures(run, sends_s, run.ttft_s, run.tpot_s)


def _simulated(run: Run, replica: Replica) -> dict[str, float]:
    """Return the same figures over the same requests, simulated."""
    return _figures(run, *simulated_times(run, replica))


_RANKS = ((0.5, "p50"), (0.95, "p95"))
_RATE = "output_tokens_per_s"


def _figures(run: Run, sends_s: FloatColumn | None, ttft_s: FloatColumn, tpot_s: FloatColumn) -> dict[str, float]:
    """Return the figures of a run over its requests that were answered; the rate where it is known when it sent them.

    The rate is that of `predicting`: tokens of what was answered, from the first request to the last of these tokens.
    """
    kept, gaps = np.isfinite(run.ttft_s), run.requests.osl_tokens - 1
    e2e_s = ttft_s + np.where(gaps > 0, np.nan_to_num(tpot_s) * gaps, 0.0)
    columns = {"ttft": ttft_s[kept], "tpot": tpot_s[np.isfinite(run.tpot_s)], "e2e": e2e_s[kept]}
    found = {f"{m}.{name}": _rank(column, frac) for m, column in columns.items() for frac, name in _RANKS}
    if sends_s is None or not kept.any():
        return found
    span_s = float((sends_s + e2e_s)[kept].max() - sends_s.min())
    return found | {_RATE: float(run.requests.osl_tokens[kept].sum()) / span_s}


def _named(stated: Stated) -> dict[int, str]:
    """Return the places of those stated figures that are predicted, with their names."""
    known = dict(_RANKS)
    return {k: f"{one.metric}.{known[one.frac]}" for k, one in enumerate(stated.figures) if one.frac in known}


def _rank(values: FloatColumn, frac: float) -> float:
    from headway.metrics import rank_of

    return float(np.sort(values)[rank_of(frac, len(values))]) if len(values) else math.nan


def _replica(found: Fit, logs: FloatColumn, drift: float, settings: EngineSettings, blocks: int) -> Replica:
    terms = found.parameters.terms(logs, drift)
    return Replica(
        settings=settings, step=step_table(terms, settings), num_gpu_blocks=blocks, frontend_s=terms.frontend_s
    )


def _predicted(
    found: Fit, run: Run, settings: EngineSettings, num_gpu_blocks: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the figures a fit predicts of a run, and the spread of their logarithms by terms and drift."""
    rng = np.random.default_rng(0)
    expected = _simulated(run, _replica(found, found.logs, 0.0, settings, num_gpu_blocks))
    drawn = [
        _simulated(
            run,
            _replica(
                found,
                rng.multivariate_normal(found.logs, found.covariance, method="eigh"),
                float(rng.normal(0.0, found.drift_log_sd)),
                settings,
                num_gpu_blocks,
            ),
        )
        for _ in range(_DRAWS)
    ]
    spread = {name: float(np.std([_log(one[name]) for one in drawn])) for name in expected}
    return expected, spread


def _predicted_stated(
    found: Fit, run: Run, settings: EngineSettings, num_gpu_blocks: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the same of a run known in figures.

    What chance and a coarse statement do to these is not in the spread: nobody can tell it from what the model misses,
    so it counts as that, and bands are the wider for it.
    """
    stated = run.stated
    assert stated is not None  # asked of no other
    rng = np.random.default_rng(0)
    expected = stated_logs(run, stated, _replica(found, found.logs, 0.0, settings, num_gpu_blocks)).mean(axis=0)
    drawn = []
    for _ in range(_DRAWS):
        logs = rng.multivariate_normal(found.logs, found.covariance, method="eigh")
        one = _replica(found, logs, float(rng.normal(0.0, found.drift_log_sd)), settings, num_gpu_blocks)
        drawn.append(stated_logs(run, stated, one).mean(axis=0))
    spread = np.std(drawn, axis=0)
    names = _named(stated)
    predicted = {name: math.exp(expected[k]) for k, name in names.items()}
    return predicted, {name: float(spread[k]) for k, name in names.items()}


def _log(value: float) -> float:
    return math.log(value) if value > 0 and math.isfinite(value) else math.nan


def _log_ratios(predicted: Mapping[str, float], measured: Mapping[str, float]) -> dict[str, float]:
    found = {name: _log(predicted[name]) - _log(value) for name, value in measured.items()}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _misfits(errors: Sequence[Mapping[str, float]], spreads: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return what errors scatter by beyond the spread that was expected of them, for every figure.

    A few runs may show none by chance, so no figure's is less than that of all figures of its rank together. What no
    run tells is no surer than what is nearest to it: of a tail its median; of the rate the median E2E, as in a closed
    loop each is the other's inverse (Little's law).
    """
    excess = {name: _excess(errors, spreads, name) for name in FIGURES}
    tails = [name for name in FIGURES if name.endswith(".p95")]
    found: dict[str, float] = {}
    for group in (tails, [name for name in FIGURES if name not in tails]):
        least = _beyond([value for name in group for value in excess[name]])
        found |= {name: max(_beyond(excess[name]), least) for name in group if excess[name]}
    for name in FIGURES:
        near = "e2e.p50" if name == _RATE else name.replace(".p95", ".p50")
        if name not in found and near in found:
            found[name] = found[near]
    return {name: found[name] for name in FIGURES if name in found}


def _excess(errors: Sequence[Mapping[str, float]], spreads: Sequence[Mapping[str, float]], name: str) -> list[float]:
    """Return each run's squared error less the variance that was expected of it."""
    pairs = [(one[name], spread[name]) for one, spread in zip(errors, spreads, strict=True) if name in one]
    return [error**2 - spread**2 for error, spread in pairs if math.isfinite(spread)]


def _beyond(excess: Sequence[float]) -> float:
    return math.sqrt(max(sum(excess) / len(excess), 0.0)) if excess else 0.0


def _band(errors: Sequence[Mapping[str, float]], name: str) -> tuple[float, float] | None:
    """Return where 90 % of further runs lie around their prediction: Student's t on the left-out logarithms."""
    known = [one[name] for one in errors if name in one]
    if len(known) < LEAST_RUNS:
        return None
    spread = math.sqrt(sum(value**2 for value in known) / len(known))
    reach = float(student.ppf((1 + _CONFIDENCE_FRAC) / 2, len(known) - 1)) * spread * math.sqrt(1 + 1 / len(known))
    return math.expm1(-reach), math.expm1(reach)


def _untold(found: Fit) -> dict[str, str]:
    """Name the terms that the runs did not tell: of a table's first place and a small term, its size; else its rise."""
    params, sd = found.parameters, np.sqrt(np.diag(found.covariance))
    first = {params.names[0], params.names[len(params.decode_knots)], *SCALARS}
    what = {True: "the runs do not tell it", False: "the runs do not tell its rise over the place before"}
    told = zip(params.names, params.prior_sd(), sd, found.entries_sd / params.spreads, strict=True)
    return {
        name: f"{what[name in first]}: ±{100 * math.expm1(min(before, 3)):.0f} % without them, "
        f"±{100 * math.expm1(min(after, 3)):.0f} % with them"
        for name, before, after, left_frac in told
        if left_frac > _UNTOLD_FRAC
    }


def _valid(
    found: Fit, runs: Sequence[Run], settings: EngineSettings, num_gpu_blocks: int
) -> dict[str, tuple[float, float]]:
    """Return what of a step the runs reached: sequences, tokens in one step (as simulated), and a sequence's length."""
    replica = _replica(found, found.logs, 0.0, settings, num_gpu_blocks)
    return {
        "batch": (1.0, float(max(min(most_in_flight(run), settings.max_num_seqs) for run in runs))),
        "tokens": (1.0, float(max(largest_step(run, replica) for run in runs))),
        "context": (0.0, float(max((run.requests.isl_tokens + run.requests.osl_tokens).max() for run in runs))),
    }


def _fitted(run: Run, errors: Mapping[str, float]) -> FittedRun:
    return FittedRun(
        name=run.name,
        requests=run.sent,
        evidence=run.evidence,
        started=run.started,
        sha256=run.sha256,
        errors_frac={name: math.expm1(value) for name, value in errors.items()},
    )
