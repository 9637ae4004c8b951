"""Held against the truth: published and own measurements, replayed and scored.

A table of measurements goes through here row by row::

    table = read_table("measurements.csv")            # rows in base units; what is wrong with them, counted
    configured = configure(table.measurements[0], catalog)   # a deployment, a load, and what was assumed

- `measurements.py` the nouns; `reader.py` reads CSV and Parquet; `checks.py` finds what cannot be.
- `configuration.py` makes a row a deployment and a load. Under it: `names.py` what models, accelerators, engines and
  formats are called elsewhere; `spread.py` and `recipes.py` how GPUs were spread; `flags.py` and `serving.py` the
  settings of the servers; `deploying.py` puts pools together; `asking.py` and `sources.py` what the harness asked for.
- `predicting.py` one row from end to end. Under it: `replaying.py` runs it on the simulator, `loads.py` is what one
  replica is asked, `pairs.py` prefill and decode apart, `figures.py` what a harness would report, `regions.py` where on
  the load curve that is.
- `scoring.py` errors by slice; `ranking.py` the better of two, and the noise floor; `explaining.py` the worst rows;
  `executing.py` all cores, or a Ray cluster: the same result.

What tables and harnesses are known to mean stands in `data/`, with sources; what a row leaves open is assumed by a rule
and said (`Configured.assumptions`). No row is refused because of what it does not say.
"""
