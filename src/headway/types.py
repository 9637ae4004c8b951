"""The nouns every room shares: frozen, slotted, keyword-only.

Names carry their base unit (`_s`, `_bytes`, `_tokens`, `_usd_per_hour`, …); the names of Hugging Face's
`config.json` and of the engines' settings stay verbatim where they mean those settings.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    IntColumn = NDArray[np.int64]
    FloatColumn = NDArray[np.float64]
    BoolColumn = NDArray[np.bool_]

#: How a figure came to be. Never mixed, always shown.
Belief = Literal["estimated", "simulated", "measured"]

#: Number formats of weights and KV. `int4` is AWQ or GPTQ (16-bit compute); `fp8_block` has 128×128 scales.
Dtype = Literal["bf16", "fp8", "fp8_block", "int8", "int4", "nvfp4", "mxfp4"]

#: The latencies headway speaks of; `metrics.py` defines them.
Metric = Literal["ttft", "tpot", "itl", "e2e"]
METRICS: tuple[Metric, ...] = ("ttft", "tpot", "itl", "e2e")


# --- facts --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where one figure comes from: the source, the day it was read or published (ISO), the unit it was given in."""

    source: str
    as_of: str
    unit: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """A datasheet: dense peaks only. What is achieved of them stands in `Calibration`."""

    name: str
    title: str
    vendor: str
    hbm_bytes: float
    hbm_bytes_per_s: float
    peak_flops_per_s: Mapping[str, float]  # by compute format: bf16, fp8, int8, fp4
    scale_up_gpus: int  # size of the NVLink / xGMI / ICI domain; 1 where there is none
    scale_up_bytes_per_s: float  # per GPU and direction inside that domain (PCIe where there is no link)
    scale_out_bytes_per_s: float  # per GPU and direction beyond it (the NIC's share of one GPU)
    gpus_per_node: int
    board_power_w: float | None
    compute_capability: str = ""  # NVIDIA only, e.g. "9.0"
    aliases: tuple[str, ...] = ()
    provenance: Mapping[str, Provenance] = field(default_factory=dict)  # by field name


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model's shape, in the words of its `config.json`.

    The three layer counts say how attention is mixed; they sum to `num_hidden_layers` (attention-free
    layers, as in some hybrids, belong to none and are counted in `other_layers`).
    """

    name: str
    architecture: str
    num_hidden_layers: int
    hidden_size: int
    vocab_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int  # width of the dense MLP (0 where every layer is MoE)
    max_position_embeddings: int
    tie_word_embeddings: bool
    weight_dtype: Dtype  # as published
    params: float  # all parameters
    params_active: float  # touched by one token
    # mixture of experts (0 where dense)
    num_experts: int = 0
    num_experts_per_tok: int = 0
    moe_intermediate_size: int = 0
    shared_expert_intermediate_size: int = 0  # summed over the shared experts
    moe_layers: int = 0
    # multi-head latent attention (0 where absent)
    q_lora_rank: int = 0
    kv_lora_rank: int = 0
    qk_nope_head_dim: int = 0
    qk_rope_head_dim: int = 0
    v_head_dim: int = 0
    # mixed attention
    full_attention_layers: int = 0
    sliding_window_layers: int = 0
    sliding_window: int = 0  # tokens
    linear_attention_layers: int = 0
    linear_state_bytes: int = 0  # recurrent state of one sequence and one linear layer
    other_layers: int = 0
    gated_mlp: bool = True  # three matrices (SwiGLU), otherwise two
    aliases: tuple[str, ...] = ()
    provenance: Mapping[str, Provenance] = field(default_factory=dict)

    @property
    def is_moe(self) -> bool:
        """Whether some layers route tokens to experts."""
        return self.num_experts > 0

    @property
    def dense_layers(self) -> int:
        """Layers with a dense MLP; where attention and MLP are layers of their own, only those of the MLPs."""
        return (self.other_layers or self.num_hidden_layers) - self.moe_layers

    @property
    def is_mla(self) -> bool:
        """Whether attention keeps one latent per token in place of keys and values."""
        return self.kv_lora_rank > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What one accelerator costs for an hour, under stated terms."""

    accelerator: str
    usd_per_gpu_hour: float
    term: str  # on-demand, reserved-1y, reserved-3y, spot, capacity-block, committed
    provider: str
    region: str  # empty: wherever the provider is
    instance: str
    gpus_per_instance: float
    as_of: str
    source: str
    zone: str = ""  # spot prices differ by zone


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A kind of link between accelerators: what one of them can send, and how late it arrives."""

    name: str
    title: str
    bytes_per_s: float  # per accelerator and direction
    latency_s: float | None = None  # one way, a small message; None where no source says
    provenance: Mapping[str, Provenance] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineTier:
    """The defaults an engine resolves for accelerators with at least this much memory."""

    least_hbm_bytes: float
    max_num_seqs: int
    max_num_batched_tokens: int
    vendors: tuple[str, ...]  # of the accelerators it is for
    unless: tuple[str, ...] = ()  # accelerators whose name holds one of these words belong to a lower tier


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """One version of a serving engine: where it runs and the defaults it resolves."""

    name: str
    version: str
    title: str
    simulated: bool  # whether the simulator follows this engine's scheduler
    vendors: tuple[str, ...]  # of accelerators it runs on
    weight_dtypes: Mapping[str, tuple[str, ...]]  # by vendor
    least_compute_capability: Mapping[str, float]  # by weight dtype, NVIDIA only
    block_size: int
    enable_prefix_caching: bool
    enable_chunked_prefill: bool
    scheduler_reserve_full_isl: bool
    async_scheduling: bool
    gpu_memory_utilization: float | None = None  # None where it is no plain default
    tiers: tuple[EngineTier, ...] = ()  # most memory first; none where no source says
    cuda_graph_limit: int = 0  # largest batch captured by default; 0: no graphs, or no source says
    cuda_graph_limit_by_capability: Mapping[str, int] = field(default_factory=dict)  # e.g. "10": 1024
    provenance: Mapping[str, Provenance] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SglangSettings:
    """What SGLang's `server_args` say and vLLM's do not; `EngineSettings` has the others under vLLM's names.

    max_num_seqs: `max_running_requests`; block_size: `page_size`; enable_prefix_caching: not `disable_radix_cache`;
    async_scheduling: not `disable_overlap_schedule`; max_model_len: `context_length`.
    """

    chunked_prefill_size: int = 8192  # -1: prompts are never cut
    max_prefill_tokens: int = 16384
    prefill_max_requests: int | None = None
    schedule_policy: str = "fcfs"  # or "lpm"
    schedule_conservativeness: float = 1.0
    scheduler_recv_interval: int = 1  # decode steps between two looks at what has arrived; a prefill is followed by one


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRtLlmSettings:
    """What TensorRT-LLM's `LlmArgs` say and vLLM's settings do not.

    max_num_seqs: `max_batch_size`; max_num_batched_tokens: `max_num_tokens`; block_size: `tokens_per_block`, also the
    unit of chunks; enable_prefix_caching: `enable_block_reuse`; async_scheduling: not `disable_overlap_scheduler`.
    """

    capacity_scheduler_policy: str = "GUARANTEED_NO_EVICT"  # or "MAX_UTILIZATION"
    context_chunking_policy: str = "FIRST_COME_FIRST_SERVED"  # or "EQUAL_PROGRESS"
    batch_wait_timeout_iters: int = 0  # steps a context phase waits, while others decode, for more to come
    batch_wait_max_tokens_ratio: float = 0.0  # of max_num_tokens; a batch with so many tokens waits no longer


@dataclass(frozen=True, slots=True, kw_only=True)
class TgiSettings:
    """What TGI's launcher says and vLLM's settings do not.

    max_num_seqs: `max_batch_size`; max_num_batched_tokens: `max_batch_prefill_tokens`; max_model_len:
    `max_total_tokens`; enable_chunked_prefill: `PREFILL_CHUNKING`. `max_batch_total_tokens` is the replica's blocks,
    and one more that TGI keeps for itself.
    """

    waiting_served_ratio: float = 0.3
    max_waiting_tokens: int = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaCppSettings:
    """What llama-server says and vLLM's settings do not.

    max_num_seqs: `parallel`, the slots; max_num_batched_tokens: `batch-size`; enable_prefix_caching: `cache-prompt`.
    `ctx-size` is the replica's blocks; each slot has an equal share (no unified KV).
    """

    slot_prompt_similarity: float = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """The engine's own settings, in the engine's own names (vLLM's where engines differ)."""

    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    gpu_memory_utilization: float
    block_size: int = 16
    enable_prefix_caching: bool = True
    enable_chunked_prefill: bool = True
    scheduler_reserve_full_isl: bool = True
    async_scheduling: bool = True
    engine: str = "vllm"  # whose scheduling policy: a name of headway.simulator.POLICIES
    version: str = "0.33.0"  # of that engine; the policy of the nearest known version that is not newer
    scheduling_policy: str = "fcfs"  # or "priority"
    max_num_active_seqs: int | None = None  # None: max_num_seqs
    max_num_scheduled_tokens: int | None = None  # None: max_num_batched_tokens
    long_prefill_token_threshold: int = 0  # 0: none
    long_prefill_token_threshold_adaptive: bool = False
    prefill_schedule_interval: int = 1
    watermark: float = 0.0  # share of the KV blocks an admission leaves free
    max_loras: int | None = None  # None: any number of adapters at once
    pipeline_parallel_size: int = 1  # stages a batch goes through one after the other
    cuda_graph_sizes: tuple[int, ...] = ()  # batch sizes captured; empty: no graphs, no padding
    own: SglangSettings | TensorRtLlmSettings | TgiSettings | LlamaCppSettings | None = None  # None: its defaults


# --- traffic ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixRuns:
    """What each prompt consists of, so that shared prefixes can be found, as run-length coded block ids.

    Request i consists of blocks of `block_tokens` tokens; its ids are the concatenation of the runs
    `first_ids[j], first_ids[j]+1, …` (`counts[j]` of them) for j in `offsets[i]:offsets[i+1]`. An id stands for the
    block *and everything before it* (prefix-chained), so two requests share a prefix of k blocks exactly when their
    first k ids are equal. Ids may go beyond the prompt: they then name the output's blocks (a later turn of the same
    session repeats them). Blocks without an id are shared with nobody. Ids are ≥ 0.
    """

    block_tokens: int
    offsets: IntColumn  # (n_requests + 1,)
    first_ids: IntColumn  # (n_runs,)
    counts: IntColumn  # (n_runs,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Requests:
    """What arrives, as columns of one length, in order of arrival (`arrive_s` never decreases)."""

    arrive_s: FloatColumn
    isl_tokens: IntColumn  # ≥ 1
    osl_tokens: IntColumn  # ≥ 1
    prefix: PrefixRuns | None = None
    session_id: IntColumn | None = None
    adapter_id: IntColumn | None = None  # -1: none
    tenant_id: IntColumn | None = None
    class_id: IntColumn | None = None
    priority: IntColumn | None = None  # smaller is sooner, as in vLLM
    max_tokens: IntColumn | None = None  # what the client allowed; where it is more than osl, a stop token ends it
    abort_s: FloatColumn | None = None  # the client hangs up then; NaN: never
    remote_prefill: BoolColumn | None = None  # the KV of its prompt comes from a prefill replica
    hold_s: FloatColumn | None = None  # its KV is held so long after it ended, for a decode replica; NaN: not at all

    def __len__(self) -> int:
        return len(self.arrive_s)


# --- what is wanted ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """One limit on one percentile of one latency: `ttft`, 0.95, 0.5 s."""

    metric: Metric
    percentile_frac: float
    limit_s: float

    def __str__(self) -> str:
        return f"{self.metric} p{100 * self.percentile_frac:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """All objectives, and the share of requests that must be served at all."""

    objectives: tuple[Objective, ...]
    success_frac: float = 0.0


# --- what is deployed -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Parallelism:
    """How one replica is spread: `tp` × `pp` × `dp` GPUs; experts over `ep` of them (1: experts are tensor-sharded)."""

    tp: int = 1
    pp: int = 1
    ep: int = 1
    dp: int = 1  # attention data parallelism inside one replica

    @property
    def gpus(self) -> int:
        """GPUs of one replica."""
        return self.tp * self.pp * self.dp

    def __str__(self) -> str:
        parts = [f"TP{self.tp}"] + [f"{n}{v}" for n, v in (("PP", self.pp), ("EP", self.ep), ("DP", self.dp)) if v > 1]
        return "·".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Equal replicas of one model on one kind of accelerator."""

    name: str
    role: Literal["mixed", "prefill", "decode"] = "mixed"
    model: Model
    accelerator: Accelerator
    engine: str
    engine_version: str
    settings: EngineSettings
    parallelism: Parallelism
    weight_dtype: Dtype
    kv_dtype: Dtype
    replicas: int
    curves: str = ""  # a file of kernel curves, or `perfdb`, that goes before headway's own
    calibration: str = ""  # the file of a calibrated endpoint that goes before the physics

    @property
    def gpus(self) -> int:
        """GPUs of the whole pool."""
        return self.replicas * self.parallelism.gpus


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """Pools behind a router."""

    pools: tuple[Pool, ...]
    router: str = "least-outstanding"

    @property
    def gpus(self) -> int:
        """GPUs of all pools."""
        return sum(pool.gpus for pool in self.pools)


# --- between the step-time model and the simulator --------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTable:
    """How long an engine step takes, in integer picoseconds, in the form the simulator can jump over.

    With n decodes whose contexts sum to S, window attention over w tokens, and c prefill chunks of m_i new tokens on
    top of x_i computed ones (M = n + Σ m_i tokens in all):

        attention(n, S) = context_ps_per_token · S + window_ps_per_token · min(S, n · window_tokens)
        pure decode     = decode_ps[n] + attention(n, S)
        with a prefill  = mixed_ps[M] + sequence_ps · (n + c) + attention(n, S)
                          + prefill_ps_per_pair · Σ m_i (2 x_i + m_i) + prefill_context_ps_per_token · Σ x_i

    `decode_ps` has max_num_seqs + 1 entries and `mixed_ps` max_num_batched_tokens + 1; entry 0 is unused.
    A context counts the tokens in KV before the step. Host overhead, CUDA-graph padding, LM head and communication
    are inside the tables. `min(S, n·w)` bounds Σ min(context, w) from above and equals it when all contexts lie on
    one side of the window.
    """

    decode_ps: IntColumn
    mixed_ps: IntColumn
    context_ps_per_token: int
    prefill_ps_per_pair: int
    sequence_ps: int = 0
    prefill_context_ps_per_token: int = 0
    window_ps_per_token: int = 0
    window_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Speculation:
    """Drafts of later tokens, verified in one step.

    A request's v-th verification accepts `accepted[v % len(accepted)]` of its drafts (at most those scheduled).
    """

    method: str  # "ngram", "eagle", "eagle3", "mtp", "draft_model"
    num_speculative_tokens: int
    accepted: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class KvGroup:
    """Layers that share block tables: a pool serves all groups, each needs blocks of its own for every request."""

    layers: int
    window_tokens: int | None = None  # None: full attention


@dataclass(frozen=True, slots=True, kw_only=True)
class KvTransfer:
    """How long it takes to load the KV of a prompt from a prefill replica: base_ps + ps_per_token · tokens."""

    base_ps: int
    ps_per_token: int
    kv_role: str = "kv_consumer"  # or "kv_producer", "kv_both", as in vLLM's kv_transfer_config


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """All the simulator knows of one replica."""

    settings: EngineSettings
    step: StepTable
    num_gpu_blocks: int  # usable KV blocks of the whole replica
    frontend_s: float = 0.0  # tokenise, HTTP, IPC: added to TTFT and E2E of every request
    speculation: Speculation | None = None
    kv_groups: tuple[KvGroup, ...] = ()  # empty: one group of full attention
    kv_transfer: KvTransfer | None = None  # a decode or prefill replica of a disaggregated pair


# --- what came of it --------------------------------------------------------------------------------------


#: From here up a percentile is of the tail, which has error bands of its own.
TAIL_FRAC = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """An error band as fractions of the figure: the truth lies in value·(1 + low) … value·(1 + high)."""

    low_frac: float
    high_frac: float
    confidence_frac: float
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """One latency over the requests of a window (ITL: over their gaps)."""

    samples: int
    mean_s: float
    max_s: float
    quantiles_s: Mapping[float, float]  # by fraction: 0.5, 0.9, 0.95, 0.99 and those an objective asks for
    unknown: int = 0  # requests that must have one which nobody can tell: no samples, and they meet no limit
    band: Band | None = None
    tail_band: Band | None = None  # of percentiles from p90 up

    def band_at(self, percentile_frac: float) -> Band | None:
        """Return the band of the quantile at that fraction."""
        return self.tail_band if percentile_frac >= TAIL_FRAC and self.tail_band else self.band

    def at(self, percentile_frac: float) -> float:
        """Return the quantile at that fraction, in seconds.

        Raises:
            KeyError: it was not computed.
        """
        return self.quantiles_s[percentile_frac]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a deployment did or would do: one shape for estimated, simulated and measured."""

    source: Belief
    latency: Mapping[Metric, Latency]
    window_s: float  # length of the window the figures are over, warm-up and cool-down cut
    arrived: int  # requests of the window
    finished: int
    failed: int  # refused (can never fit, or too long for the model), or cut short
    unfinished: int  # still waiting or running at the end
    cancelled: int = 0  # the client hung up before the end: in no share of requests
    requests_per_s: float
    input_tokens_per_s: float
    output_tokens_per_s: float
    goodput_per_s: float  # requests per second that met every objective
    slo_attainment_frac: float  # share of arrived requests, but those cancelled, that met every objective
    meets_slo: bool  # every objective's percentile holds, and success_frac
    preemptions: int
    prefix_hit_frac: float  # prompt tokens found in the prefix cache; NaN: nobody told
    busy_frac: Mapping[float, float]  # share of time replicas were stepping: quantiles over windows
    kv_used_frac: Mapping[float, float]  # quantiles over time
    mfu_frac: float | None = None
    output_tokens_per_s_band: Band | None = None  # where the fleet, not the traffic, decides how many there are

    @property
    def served_frac(self) -> float:
        """Share of the arrived requests, but those cancelled, that were answered in full; 1 where there are none."""
        asked = self.arrived - self.cancelled
        return self.finished / asked if asked else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a deployment costs for the traffic it carries."""

    price: Price
    gpus: int
    usd_per_hour: float
    usd_per_m_input_tokens: float
    usd_per_m_output_tokens: float
    usd_per_request: float
    usd_per_good_request: float
    idle_gpu_hours_per_hour: float  # GPU-hours paid but not stepping, each hour


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One deployment, what came of it and what it costs; or why it was put aside."""

    deployment: Deployment
    outcome: Outcome | None
    cost: Cost | None
    binds: str = ""
    rejected_because: str = ""
    everyday: Outcome | None = None  # the whole fleet at the base rate; `outcome`: without spares at the design rate
    spare_replicas: int = 0  # of the deployment's replicas: those a failure may take
