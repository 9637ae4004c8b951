"""How long prompts and outputs are, together.

`JointTable` keeps both marginals and the dependence of a real trace: quantiles of ISL, and quantiles of OSL for each
slice of ISL rank. `Copula` joins any two distributions by a rank correlation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from headway.workload.distributions import Z_LIMIT, normal_score, whole

if TYPE_CHECKING:
    from headway.types import FloatColumn, IntColumn
    from headway.workload.distributions import Distribution, Quantiles

#: No prompt or output is longer than this, whatever a tail says; far beyond any model's context.
MOST_TOKENS = 10**8


class Lengths(Protocol):
    """Joint lengths from two independent columns of standard normal scores."""

    def sample(self, isl_z: FloatColumn, osl_z: FloatColumn) -> tuple[IntColumn, IntColumn]:
        """Return `isl_tokens` and `osl_tokens` (each ≥ 1); `isl_z` alone decides ISL."""
        ...


def tokens(values: FloatColumn) -> IntColumn:
    """Round to whole tokens, at least one."""
    return whole(values, MOST_TOKENS).astype(np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Copula:
    """Two distributions with a Gaussian copula.

    Args:
        isl: of prompts, in tokens.
        osl: of outputs, in tokens.
        rank_correlation: Spearman's ρ between ISL and OSL, −1 … 1.
    """

    isl: Distribution
    osl: Distribution
    rank_correlation: float = 0.0

    def sample(self, isl_z: FloatColumn, osl_z: FloatColumn) -> tuple[IntColumn, IntColumn]:
        """Return both lengths; Pearson's r of the scores is 2 sin(πρ/6) (Kruskal 1958, eq. 6.6)."""
        r = 2.0 * math.sin(math.pi * self.rank_correlation / 6.0)
        mixed = np.clip(r * isl_z + math.sqrt(1.0 - r * r) * osl_z, -Z_LIMIT, Z_LIMIT)
        return tokens(self.isl.at(isl_z)), tokens(self.osl.at(mixed))


@dataclass(frozen=True, slots=True, kw_only=True)
class JointTable:
    """Quantiles of ISL, and of OSL given the slice of ISL rank the prompt falls in.

    Args:
        isl: quantiles of all prompts.
        osl: one table of quantiles per slice; the slices are equal shares of the requests by rising ISL.
    """

    isl: Quantiles
    osl: tuple[Quantiles, ...]

    def sample(self, isl_z: FloatColumn, osl_z: FloatColumn) -> tuple[IntColumn, IntColumn]:
        """Return both lengths."""
        edges = normal_score(np.arange(1, len(self.osl)) / len(self.osl))
        slice_of = np.searchsorted(edges, isl_z)
        osl = np.empty(osl_z.shape)
        for index, table in enumerate(self.osl):
            here = slice_of == index
            osl[here] = table.at(osl_z[here])
        return tokens(self.isl.at(isl_z)), tokens(osl)
