"""Every deployment the scenario allows, as pools of one replica, and why the others are not."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import product
from typing import TYPE_CHECKING, Any

from headway.catalog import accepts, engine_settings
from headway.errors import InfeasibleError, InputError
from headway.perf import beyond, endpoint_pool, is_called, known_endpoint, memory, unlike
from headway.planner.nouns import Refusal
from headway.types import Engine, Parallelism, Pool

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from headway.perf import EndpointCalibration
    from headway.scenario import Scenario
    from headway.types import Accelerator, Dtype, EngineSettings, Model, Price

#: max_num_batched_tokens, max_num_seqs and enable_prefix_caching
Swept = tuple[int, int, bool]
#: A model's context is cut to the longest request, in whole multiples of this.
_LENGTH_STEP_TOKENS = 1024


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shape:
    """What decides a replica's price, weights and kernels: everything but the settings that are swept."""

    model: Model
    accelerator: Accelerator
    engine: Engine
    parallelism: Parallelism
    weight_dtype: Dtype
    kv_dtype: Dtype
    max_model_len: int
    price: Price
    calibration: str = ""  # of the endpoint that it was measured on, in place of the physics

    def __str__(self) -> str:
        return f"{self.accelerator.name} {self.parallelism} {self.weight_dtype} KV {self.kv_dtype}"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Option:
    """A shape with settings and a router: one candidate, before its replicas are counted."""

    shape: Shape
    pool: Pool  # with one replica
    blocks: int  # KV blocks of the replica under the leanest settings swept: no fewer than it has
    router: str

    @property
    def usd_per_hour(self) -> float:
        """Price of one replica."""
        return self.pool.gpus * self.shape.price.usd_per_gpu_hour


@dataclass(slots=True)
class Refusals:
    """Counts what is put aside, by reason, with the first example of each."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, reason: str, example: str, candidates: int = 1) -> None:
        """Put aside."""
        self.counts[reason] += candidates
        self.examples.setdefault(reason, example)

    def copied(self) -> Refusals:
        """Return the same counts, to go on from."""
        return Refusals(Counter(self.counts), dict(self.examples))

    def listed(self) -> tuple[Refusal, ...]:
        """Return them, the most frequent first."""
        ordered = sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))
        return tuple(Refusal(reason=r, candidates=n, example=self.examples[r]) for r, n in ordered)


def context_length(scenario: Scenario, model: Model, longest_tokens: int) -> int:
    """Return `max_model_len`: as set, or the longest request rounded up, never beyond what the model can."""
    fixed = scenario.settings.get("max_model_len")
    if isinstance(fixed, int):
        return fixed
    rounded = -(-longest_tokens // _LENGTH_STEP_TOKENS) * _LENGTH_STEP_TOKENS
    return min(model.max_position_embeddings, rounded)


def _same(shape: Shape, measured: Shape) -> bool:
    names = ("model", "accelerator", "parallelism", "weight_dtype", "kv_dtype")
    return shape.engine.name == measured.engine.name and all(getattr(shape, n) == getattr(measured, n) for n in names)


def _engine_measured(found: EndpointCalibration) -> Engine:
    """Return the engine of an endpoint as it ran; what else it could run on or with was not measured."""
    settings = found.settings
    return Engine(
        name=found.engine,
        version=found.engine_version,
        title=f"{found.engine} {found.engine_version}".rstrip(),
        simulated=True,
        vendors=(),
        weight_dtypes={},
        least_compute_capability={},
        block_size=settings.block_size,
        enable_prefix_caching=settings.enable_prefix_caching,
        enable_chunked_prefill=settings.enable_chunked_prefill,
        scheduler_reserve_full_isl=settings.scheduler_reserve_full_isl,
        async_scheduling=settings.async_scheduling,
    )


class Space:
    """Walks what the scenario allows.

    Args:
        scenario: what is allowed.
        prices: by accelerator; one without a price is refused.
        longest_tokens: prompt and output of the longest request.
        context_tokens: typical context of a sequence.
    """

    def __init__(
        self, scenario: Scenario, prices: Mapping[str, Price], *, longest_tokens: int, context_tokens: int
    ) -> None:
        self._scenario, self._prices = scenario, prices
        self._longest_tokens, self._context_tokens = longest_tokens, context_tokens
        allow = scenario.allow
        self._swept = sorted(product(allow.max_num_batched_tokens, allow.max_num_seqs, allow.enable_prefix_caching))
        self._settings: dict[tuple[object, ...], EngineSettings] = {}
        self.refusals = Refusals()
        self.enumerated = 0
        self.nearest_fit = ""  # what would make the first deployment fit that does not

    def shapes(self) -> Iterator[Shape]:
        """Walk the shapes that the engine runs, that the accelerator's node can hold, and that have a price."""
        allow = self._scenario.allow
        measured = list(self._measured())
        yield from measured
        for model, accelerator, engine in product(self._scenario.models, allow.accelerators, allow.engines):
            if not accelerator.peak_flops_per_s:
                continue  # nobody knows its datasheet: it is planned as it was measured
            dtypes = dict.fromkeys(model.weight_dtype if d == "published" else d for d in allow.precisions)
            for weight, kv, spread in product(dtypes, allow.kv_precisions, self._parallelisms(model)):
                self.enumerated += len(self._swept) * len(allow.routers)
                reason = self.unfit(accelerator, engine, weight, spread)
                if reason:
                    example = f"{accelerator.name} {spread} {weight} KV {kv}"
                    self.refusals.add(reason, example, len(self._swept) * len(allow.routers))
                    continue
                shape = Shape(
                    model=model,
                    accelerator=accelerator,
                    engine=engine,
                    parallelism=spread,
                    weight_dtype=weight,
                    kv_dtype=kv,
                    max_model_len=context_length(self._scenario, model, self._longest_tokens),
                    price=self._prices[accelerator.name],
                )
                if not any(_same(shape, other) for other in measured):
                    yield shape

    def _measured(self) -> Iterator[Shape]:
        """Walk the calibrated endpoints as shapes; what they are of is not planned by the physics too."""
        for source in self._scenario.endpoints:
            found = known_endpoint(source)
            self.enumerated += len(self._swept_of(source)) * len(self._scenario.allow.routers)
            model = next(one for one in self._scenario.models if is_called(one, found.model))
            accelerator = next(one for one in self._scenario.allow.accelerators if is_called(one, found.hardware))
            if accelerator.name not in self._prices:
                self.refusals.add(f"no allowed price for {accelerator.name}", f"calibration {found.name}")
                continue
            pool = endpoint_pool(source, model, accelerator)
            yield Shape(
                model=model,
                accelerator=accelerator,
                engine=_engine_measured(found),
                parallelism=pool.parallelism,
                weight_dtype=pool.weight_dtype,
                kv_dtype=pool.kv_dtype,
                max_model_len=pool.settings.max_model_len,
                price=self._prices[accelerator.name],
                calibration=source,
            )

    def _swept_of(self, source: str) -> list[Swept]:
        """Return the settings swept over an endpoint: those stated in the scenario, else those it ran with."""
        allow, ran = self._scenario.allow, known_endpoint(source).settings
        defaults = {one.name.removeprefix("allow.") for one in self._scenario.assumptions}

        def choices(name: str) -> tuple[Any, ...]:
            return (getattr(ran, name),) if name in defaults else getattr(allow, name)

        return sorted(product(*map(choices, ("max_num_batched_tokens", "max_num_seqs", "enable_prefix_caching"))))

    def _parallelisms(self, model: Model) -> Iterator[Parallelism]:
        allow = self._scenario.allow
        expert_choices = allow.enable_expert_parallel if model.is_moe else (False,)
        for tp, pp, dp, expert in product(allow.tp, allow.pp, allow.dp, expert_choices):
            yield Parallelism(tp=tp, pp=pp, dp=dp, ep=tp * dp if expert else 1)

    def unfit(self, accelerator: Accelerator, engine: Engine, weight: Dtype, spread: Parallelism) -> str:
        """Return why these do not go together; empty where they do."""
        if accelerator.name not in self._prices:
            return f"no allowed price for {accelerator.name}"
        if spread.gpus > self._scenario.allow.max_gpus_per_replica:
            return "more GPUs than allow.max_gpus_per_replica"
        if spread.tp * spread.dp > max(accelerator.scale_up_gpus, accelerator.gpus_per_node):
            return f"tensor parallelism beyond one {accelerator.name} node"
        return accepts(engine, accelerator, weight)

    def options(self, shape: Shape) -> list[Option]:
        """Return the candidates of one shape that fit in memory; those that do not are counted."""
        if shape.calibration:
            return list(self._endpoint_options(shape))
        able = [one for one in self._swept if one[1] <= one[0]]
        if len(able) < len(self._swept):
            left = (len(self._swept) - len(able)) * len(self._scenario.allow.routers)
            self.refusals.add("max_num_batched_tokens below max_num_seqs", f"{self._swept[0][:2]}", left)
        if not able:
            return []
        # the sweep goes from the least memory to the most: what does not fit first never fits, what fits last always
        most = self._blocks(shape, able[0], len(able))
        if most is None:
            return []
        if len(able) > 1 and self._blocks(shape, able[-1], 0) is None:
            able = [one for one in able if self._blocks(shape, one, 1)]
        pools = [self._pool(shape, *one) for one in able]
        routers = self._scenario.allow.routers
        return [Option(shape=shape, pool=pool, blocks=most, router=router) for pool in pools for router in routers]

    def _endpoint_options(self, shape: Shape) -> Iterator[Option]:
        found = known_endpoint(shape.calibration)
        for tokens, seqs, caching in self._swept_of(shape.calibration):
            if problem := beyond(seqs, tokens, found):
                self.refusals.add(problem, f"{seqs} and {tokens}", len(self._scenario.allow.routers))
                continue
            for router in self._scenario.allow.routers:
                yield self.option(shape, (tokens, seqs, caching), router)

    def _blocks(self, shape: Shape, swept: Swept, candidates: int) -> int | None:
        """Return the KV blocks under these settings; None where they do not fit, with so many candidates refused."""
        try:
            return memory(self._pool(shape, *swept)).sequence_blocks(self._context_tokens)
        except InfeasibleError as error:
            reason = "does not fit in memory" if error.binding == "hbm_bytes" else error.problem
            if candidates:
                example = f"{shape}: {error.problem}"
                self.refusals.add(reason, example, candidates * len(self._scenario.allow.routers))
            self.nearest_fit = self.nearest_fit or error.relaxation
            return None

    def option(self, shape: Shape, swept: Swept, router: str) -> Option:
        """Return one candidate.

        Raises:
            InfeasibleError: it does not fit in memory, or the model cannot be spread that way.
            InputError: it is not what a calibrated endpoint was measured on.
        """
        if shape.calibration:
            return self._endpoint_option(shape, swept, router)
        pool = self._pool(shape, *swept)
        return Option(shape=shape, pool=pool, blocks=memory(pool).sequence_blocks(self._context_tokens), router=router)

    def _endpoint_option(self, shape: Shape, swept: Swept, router: str) -> Option:
        found, (tokens, seqs, caching) = known_endpoint(shape.calibration), swept
        pool = endpoint_pool(
            shape.calibration,
            shape.model,
            shape.accelerator,
            max_num_batched_tokens=tokens,
            max_num_seqs=seqs,
            enable_prefix_caching=caching,
        )
        asked = replace(pool, parallelism=shape.parallelism, weight_dtype=shape.weight_dtype, kv_dtype=shape.kv_dtype)
        if problem := unlike(asked, found):
            raise InputError(problem)
        return Option(shape=shape, pool=pool, blocks=found.num_gpu_blocks, router=router)

    def _pool(self, shape: Shape, max_num_batched_tokens: int, max_num_seqs: int, caching: bool) -> Pool:  # noqa: FBT001 - the engine's own switch
        return Pool(
            name="main",
            model=shape.model,
            accelerator=shape.accelerator,
            engine=shape.engine.name,
            engine_version=shape.engine.version,
            settings=self._resolved(shape, max_num_batched_tokens, max_num_seqs, caching=caching),
            parallelism=shape.parallelism,
            weight_dtype=shape.weight_dtype,
            kv_dtype=shape.kv_dtype,
            replicas=1,
            curves=self._scenario.curves.get(shape.accelerator.name, ""),
        )

    def _resolved(self, shape: Shape, tokens: int, seqs: int, *, caching: bool) -> EngineSettings:
        key = (
            shape.engine.name,
            shape.engine.version,
            shape.accelerator.name,
            tokens,
            seqs,
            caching,
            shape.max_model_len,
        )
        if key not in self._settings:
            swept = {"max_num_batched_tokens": tokens, "max_num_seqs": seqs, "enable_prefix_caching": caching}
            fixed = {name: value for name, value in self._scenario.settings.items() if name != "max_model_len"}
            self._settings[key] = engine_settings(
                shape.engine, shape.accelerator, max_model_len=shape.max_model_len, overrides=swept | fixed
            )
        return self._settings[key]
