"""Fits for `derive_profiles.py`: a Markov-modulated rate to arrival times, and joint quantile tables to lengths."""

from __future__ import annotations

import numpy as np

#: Percentiles of every table: dense enough that p50, p90 and p99 of the real trace come back.
PERCENTILES = (
    *(0, 0.1, 0.5, 1, 2.5, 5, 10, 15, 20, 25, 30, 40, 50, 60, 70, 75, 80, 85, 90, 92.5, 95, 96.5),
    *(97.5, 98, 98.5, 98.75, 99, 99.25, 99.5, 99.75, 99.9, 100),
)
SLICES = 10


def quantiles(values: np.ndarray, percentiles: tuple[float, ...] = PERCENTILES) -> list[int]:
    """Quantiles that are values of the sample."""
    return [int(v) for v in np.quantile(values, np.array(percentiles) / 100, method="inverted_cdf")]


def joint_table(isl: np.ndarray, osl: np.ndarray) -> dict[str, object]:
    """Quantiles of ISL, and of OSL in each tenth of the requests by rising ISL (ties in a random, seeded order)."""
    order = np.lexsort((np.random.default_rng(0).random(len(isl)), isl))
    rows = [quantiles(osl[part]) for part in np.array_split(order, SLICES)]
    return {"percentiles": list(PERCENTILES), "isl": quantiles(isl), "osl": rows}


def fano(times_s: np.ndarray, window_s: float) -> float:
    """Variance over mean of the counts in windows of that length."""
    counts = np.bincount((times_s // window_s).astype(int))[: int(times_s[-1] // window_s)]
    return float(counts.var() / counts.mean())


def _forward_backward(likely: np.ndarray, moves: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """State probabilities per bin, expected moves, and the log likelihood (Rabiner 1989, scaled)."""
    forward, backward, scale = np.empty_like(likely), np.ones_like(likely), np.empty(len(likely))
    now = start * likely[0]
    for t in range(len(likely)):
        if t:
            now = (forward[t - 1] @ moves) * likely[t]
        scale[t] = now.sum()
        forward[t] = now / scale[t]
    for t in range(len(likely) - 2, -1, -1):
        backward[t] = moves @ (likely[t + 1] * backward[t + 1]) / scale[t + 1]
    expected = moves * (forward[:-1].T @ (likely[1:] * backward[1:] / scale[1:, None]))
    return forward * backward, expected, float(np.log(scale).sum())


def poisson_hmm(counts: np.ndarray, states: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Rates per bin, moves per bin and log likelihood of a hidden Markov chain with Poisson counts (Baum-Welch)."""
    from scipy.stats import poisson

    rates = np.quantile(counts, (np.arange(states) + 0.5) / states) * (1 + 0.1 * np.arange(states))
    rates = np.maximum(rates, 0.05 + 0.2 * np.arange(states)) + 1e-3 * np.arange(states)
    moves = np.where(np.eye(states) > 0, 0.9, 0.1 / (states - 1))
    start, before = np.full(states, 1 / states), -np.inf
    for _ in range(300):
        seen, expected, now = _forward_backward(poisson.pmf(counts[:, None], rates) + 1e-300, moves, start)
        moves = expected / expected.sum(axis=1, keepdims=True)
        rates = (seen * counts[:, None]).sum(axis=0) / seen.sum(axis=0)
        start = seen[0] / seen[0].sum()
        if now - before < 1e-4:
            break
        before = now
    return rates, moves, now


def modulated(times_s: np.ndarray, bin_s: float) -> dict[str, object]:
    """A Markov-modulated Poisson process: hidden Markov fit to counts per bin, 2 to 6 states by least BIC."""
    counts = np.bincount((times_s // bin_s).astype(int))[: int(times_s[-1] // bin_s)]
    fits = [poisson_hmm(counts, states) for states in range(2, 7)]
    rates, moves, _ = min(fits, key=lambda fit: -2 * fit[2] + len(fit[0]) ** 2 * np.log(len(counts)))
    stays_s = -bin_s / np.log(np.clip(np.diag(moves), 1e-9, 1 - 1e-9))
    leave = np.where(np.eye(len(rates)) > 0, 0.0, moves)
    leave /= leave.sum(axis=1, keepdims=True)
    states = [
        {
            "rate": f"{round(rate / bin_s, 4):.4g} req/s",
            "stay": f"{stay:.4g} s",
            "next": [round(float(p), 4) for p in row],
        }
        for rate, stay, row in zip(rates, stays_s, leave, strict=True)
    ]
    return {"process": "mmpp", "rate": f"{len(times_s) / times_s[-1]:.4g} req/s", "states": states}
