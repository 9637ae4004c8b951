"""Words as whole numbers: users, models and sessions of a log become codes in order of first appearance."""

from __future__ import annotations

import polars as pl


def word_codes(words: pl.Series) -> tuple[pl.Series, tuple[str, ...]]:
    """Return a code per row (−1 where there is no word) and the words by code."""
    names = words.drop_nulls().unique(maintain_order=True)
    if not len(names):
        return pl.Series(words.name, [-1] * len(words), dtype=pl.Int64), ()
    codes = words.replace_strict(names, pl.int_range(len(names), eager=True), default=-1, return_dtype=pl.Int64)
    return codes, tuple(names.to_list())


def session_codes(words: pl.Series) -> pl.Series:
    """Return a session per row; a row that names none is a session of its own."""
    codes, names = word_codes(words)
    alone = pl.int_range(len(names), len(names) + len(words), eager=True)
    return pl.select(pl.when(codes >= 0).then(codes).otherwise(alone)).to_series()
