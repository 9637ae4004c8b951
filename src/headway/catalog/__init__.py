"""Facts with unit, source and date: accelerators, links, models, engines, prices.

Everything known stands in `data/`, as YAML and CSV that people read and correct; code turns an entry into the noun of
`types.py` when it is asked for::

    catalog = load("mine.yaml", "my-prices.csv")       # the user's own files go over the shipped ones
    h100 = catalog.accelerator("H100")                 # any name or alias, in any case
    h100.provenance["hbm_bytes_per_s"]                 # where the figure is from, of which day, in which unit
    model = catalog.model("meta-llama/Llama-3.1-8B")   # or read_config_json("./config.json")
    settings = engine_settings(catalog.engine("vllm"), h100, max_model_len=8192)
    catalog.prices(h100, region="us-east-1", terms=["on-demand", "spot"])

- `facts.py` reads tables of entries whose every figure has a source; one format for shipped files and the user's.
- `accelerators.py`, `models.py`, `engines.py`, `prices.py` build the nouns; `focus.py` reads prices paid from a bill.
- `config_json.py` builds a `Model` from any Hugging Face config.json, with `layers.py` (who attends how),
  `precision.py` (number format) and `parameters.py` (how many). A model of the catalogue is a config.json in YAML.
- `catalog.py` is the whole: what is known, by name, with the user's files over it.

To add an accelerator, a model, an engine: one entry in its YAML file. Nothing else.
"""

from headway.catalog.catalog import Catalog, load
from headway.catalog.config_json import read_config_json
from headway.catalog.engines import accepts, engine_settings
from headway.catalog.facts import Entry, Figure
from headway.catalog.prices import PriceSpread, spread

__all__ = [
    "Catalog",
    "Entry",
    "Figure",
    "PriceSpread",
    "accepts",
    "engine_settings",
    "load",
    "read_config_json",
    "spread",
]
