"""Held against the truth: published and own measurements, replayed and scored.

A table of measurements goes through here row by row::

    table = read_table("measurements.csv")            # rows in base units; what is wrong with them, counted
    configured = configure(table.measurements[0], catalog)   # a deployment, a load, and what was assumed

- `measurements.py` the nouns; `reader.py` reads CSV and Parquet; `checks.py` finds what cannot be.
- `names.py` what a model, an accelerator, an engine is called elsewhere; `configuration.py` makes a row a deployment
  and a load; `sources.py` what is known of the harness a row was measured with.
"""
