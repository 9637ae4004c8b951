"""Makes a row what can be replayed: pools and a load, and all that was assumed on the way. No row is refused."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from headway.types import Pool, Speculation
from headway.validation.asking import load_of
from headway.validation.deploying import Deployer
from headway.validation.names import Assumption, accelerator_of, engine_of, model_of, weight_dtype_of
from headway.validation.recipes import recipe_of
from headway.validation.servers import server_of, started
from headway.validation.sources import harness_of

if TYPE_CHECKING:
    from headway.catalog import Catalog
    from headway.types import Accelerator, Dtype, Model
    from headway.validation.loads import Load
    from headway.validation.measurements import Measurement
    from headway.validation.recipes import Recipe
    from headway.validation.sources import Harness

_PER_GPU = re.compile(r"value is per GPU|TPGS|TGS per GPU", re.IGNORECASE)
#: method named by a row -> the drafter's kind for the simulator, drafts per step, share of drafts accepted.
#: Source: medians over published acceptance rates (vLLM blog: MTP k = 1 about 0.9; EAGLE3 about 0.67 of three).
_DRAFTS = {
    "mtp": ("mtp", 1, 0.85),
    "eagle3": ("eagle3", 3, 0.6),
    "eagle": ("eagle", 3, 0.55),
    "dspark": ("mtp", 3, 0.6),
}
#: Of MTP over random prompts, as InferenceX sends them, at one, two, three drafts: less than over text.
_MTP_SHARE = 0.7
_DRAFT_TOKENS = re.compile(r"num_speculative_tokens\"?[:= ]+(\d+)|speculative-num-steps[= ]+(\d+)|\bk ?= ?(\d+)")


#: Assumptions about what was deployed or asked that decide a row's figures.
UNCLEAR = frozenset(
    {
        *("isl_unknown", "osl_unknown", "rate_unknown", "concurrency_unknown", "workers_unknown", "halves"),
        *("model_stand_in", "accelerator_stand_in", "engine_stand_in", "does_not_fit", "gpus_contradict"),
        *("unknown_model", "unknown_accelerator", "unknown_engine", "unknown_format"),
        *("speculation_unknown", "spread_ambiguous"),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Configured:
    """A row as it is replayed.

    Attributes:
        pools: one mixed pool, or a prefill and a decode pool.
        load: what was asked of the whole.
        harness: how it was measured.
        speculation: drafts, where the row says so.
        per_gpu: whether the row's tokens per second are those of one GPU.
        static_batch: whether all sequences start and end together, with no scheduler between them.
        adapters: LoRA adapters in use.
        assumptions: what the row does not say, and what was taken for granted.
    """

    pools: tuple[Pool, ...]
    load: Load
    harness: Harness
    speculation: Speculation | None = None
    per_gpu: bool = False
    static_batch: bool = False
    adapters: int = 0
    assumptions: tuple[Assumption, ...]

    @property
    def is_unclear(self) -> bool:
        """Whether what decides its figures had to be assumed: the error is the row's more than the model's."""
        return any(one.code in UNCLEAR for one in self.assumptions)

    @property
    def pool(self) -> Pool:
        """The pool that decodes."""
        return self.pools[-1]

    @property
    def gpus(self) -> int:
        """GPUs of all pools."""
        return sum(pool.gpus for pool in self.pools)


def configure(row: Measurement, catalog: Catalog) -> Configured:
    """Return a row as it is replayed.

    Args:
        row: what was measured.
        catalog: where names are looked up first.
    """
    said: list[Assumption] = []
    model, accelerator = model_of(row, catalog, said), accelerator_of(row, catalog, said)
    engine, harness = engine_of(row, said), harness_of(row)
    dtype, load = _weights(row, model, harness, said), load_of(row, harness, said)
    recipe = recipe_of(row, accelerator, engine.policy, said) if harness.name == "inferencex" else None
    deployer = Deployer(
        row=row,
        model=model,
        accelerator=accelerator,
        engine=engine,
        dtype=dtype,
        load=load,
        harness=harness,
        options=_started(row, accelerator, engine.policy, recipe, said) if harness.name == "inferencex" else "",
        said=said,
    )
    return Configured(
        pools=deployer.pools(recipe, catalog),
        load=load,
        harness=harness,
        speculation=_speculation(row, recipe, said),
        per_gpu=bool(_PER_GPU.search(row.note)),
        static_batch="static batch" in row.features,
        adapters=_adapters(row),
        assumptions=tuple(said),
    )


def _weights(row: Measurement, model: Model, harness: Harness, said: list[Assumption]) -> Dtype:
    if harness.weight_dtype and row.weight_dtype.casefold() in ("fp16", "bf16"):
        said.append(Assumption(code="weights_of_harness", text=f"{row.weight_dtype} is run in {harness.weight_dtype}"))
        return weight_dtype_of(replace(row, weight_dtype=harness.weight_dtype), model, said)
    return weight_dtype_of(row, model, said)


def _started(
    row: Measurement, accelerator: Accelerator, engine: str, recipe: Recipe | None, said: list[Assumption]
) -> str:
    server = server_of(row, accelerator, engine, recipe)
    return started(server, row, said) if server else ""


def _adapters(row: Measurement) -> int:
    found = re.search(r"multi-LoRA n=(\d+)", row.features)
    return int(found[1]) if found else 0


#: More drafts than any engine verifies at once.
_MOST_DRAFTS = 64


def _speculation(row: Measurement, recipe: Recipe | None, said: list[Assumption]) -> Speculation | None:
    """Return the drafts a row names, or those its recipe lists."""
    if named := re.search(r"spec:([A-Za-z0-9]+)", row.features):
        method, tokens, share = _DRAFTS.get(named[1].casefold(), _DRAFTS["mtp"])
        if drafts := _DRAFT_TOKENS.search(f"{row.features} {row.note}"):
            tokens = min(int(next(word for word in drafts.groups() if word)), _MOST_DRAFTS)
    elif recipe and recipe.drafts:
        method, tokens, share = "mtp", recipe.drafts, _MTP_SHARE
    else:
        return None
    text = f"{method}, {tokens} drafts, each accepted in {share:g} of cases where the one before is"
    said.append(Assumption(code="acceptance_assumed", text=text))
    return Speculation(method=method, num_speculative_tokens=tokens, accepted=_pattern(tokens, share))


def _pattern(tokens: int, share: float) -> tuple[int, ...]:
    """Return how many drafts each of twenty verifications accepts; each with that chance after the one before."""
    mean = sum(share**k for k in range(1, tokens + 1))
    totals = [round(mean * i) for i in range(21)]
    return tuple(min(after - before, tokens) for before, after in pairwise(totals))
