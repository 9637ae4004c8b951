"""What fits: weights, activations, graphs and KV blocks of one GPU, in the order vLLM subtracts them.

    requested = ⌈hbm_bytes · gpu_memory_utilization⌉
    available = requested − weights − activation peak of a full batch − process and communicator buffers − CUDA graphs
    blocks    = available // bytes of one block

KV comes in groups of equally many layers that share one pool of blocks (vLLM's hybrid KV manager): a block holds
`block_size` tokens of one group. Full-attention groups need a block per `block_size` tokens, window groups keep only
what the window reaches, linear-attention layers keep one state per sequence. A model with one kind of layer is the
case of one group.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from headway.errors import InfeasibleError
from headway.perf.constants import Calibration
from headway.perf.constants import calibration as calibrated
from headway.perf.formats import KV_BYTES
from headway.perf.shapes import attention_layers, check_parallelism, kv_elements, weight_bytes
from headway.units import show_bytes

if TYPE_CHECKING:
    from headway.types import Pool

_BF16_BYTES = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """Where the memory of one GPU goes, and the KV blocks that come of it."""

    requested_bytes: float
    weights_bytes: float
    activation_bytes: float
    cuda_graph_bytes: float
    other_bytes: float  # the process and the communicators
    available_kv_bytes: float
    block_size: int
    kv_bytes_per_block: float  # one block of one group
    kv_bytes_per_token: float  # of a token every group holds
    full_groups: int
    window_groups: int
    window_blocks: int  # blocks one sequence holds per window group once its context is past the window
    state_blocks: int  # blocks the linear-attention states of one sequence take
    num_gpu_blocks: int  # of one GPU's pool, as the engine reports them
    dp: int
    max_model_len: int

    def blocks_of(self, context_tokens: int) -> int:
        """Return the blocks one sequence of that context holds, over all groups."""
        blocks = -(-context_tokens // self.block_size)
        return self.full_groups * blocks + self.window_groups * min(blocks, self.window_blocks) + self.state_blocks

    def sequence_blocks(self, context_tokens: int | None = None) -> int:
        """Return the replica's blocks in the count of an engine with one KV group, for sequences of that context.

        With several groups one sequence holds more blocks than its tokens fill, and how many more depends on its
        context; this rescales the pool so that as many sequences of `context_tokens` fit. Without a context it is
        that of a sequence no window has shortened yet, which never promises too much.
        """
        context = context_tokens or self.block_size
        usable = self.num_gpu_blocks - 1  # the null block
        return self.dp * (usable * -(-context // self.block_size) // self.blocks_of(context))

    @property
    def max_concurrency(self) -> float:
        """Sequences of `max_model_len` that fit at once, in the whole replica."""
        return self.dp * self.num_gpu_blocks / self.blocks_of(self.max_model_len)


def memory(pool: Pool, calibration: Calibration | None = None) -> MemoryPlan:
    """Plan the memory of one GPU of a pool.

    Raises:
        InfeasibleError: one sequence of `max_model_len` does not fit, with the bytes missing and the nearest change
            that fits; or the model cannot be spread that way.
    """
    check_parallelism(pool)
    found = _plan(pool, calibration)
    needed = (found.blocks_of(found.max_model_len) + 1) * found.kv_bytes_per_block  # and the null block
    missing = needed - found.available_kv_bytes
    if missing > 0:
        raise InfeasibleError(
            f"{pool.model.name} in {pool.weight_dtype} with max_model_len {found.max_model_len} lacks "
            f"{show_bytes(missing)} on each of {pool.parallelism.gpus} {pool.accelerator.name}",
            binding="hbm_bytes",
            relaxation=_nearest_fit(pool, calibration),
            shortfall={"missing_bytes": missing},
        )
    return found


def kv_groups(pool: Pool) -> tuple[int, int, int]:
    """Return (layers of a group, full groups, window groups) of one pipeline stage, padded as vLLM pads them."""
    full, window = (-(-n // pool.parallelism.pp) for n in attention_layers(pool.model, pool.settings.max_model_len))
    layers = min((n for n in (full, window) if n), default=0)
    if not layers:
        return 0, 0, 0
    return layers, -(-full // layers), -(-window // layers)


def _plan(pool: Pool, calibration: Calibration | None) -> MemoryPlan:
    constants = calibration or calibrated(pool.accelerator, pool.engine)
    settings, par, model = pool.settings, pool.parallelism, pool.model
    layers, full_groups, window_groups = kv_groups(pool)
    layer_bytes = kv_elements(model, par.tp) * KV_BYTES[pool.kv_dtype]
    state = -(-model.linear_attention_layers // par.pp) * model.linear_state_bytes / par.tp
    block_bytes = layers * layer_bytes * settings.block_size or state or 1.0
    requested = math.ceil(pool.accelerator.hbm_bytes * settings.gpu_memory_utilization)
    weights, activation = weight_bytes(pool), activation_bytes(pool, constants)
    sizes = len(settings.cuda_graph_sizes)
    graphs = sizes and constants.graph_bytes + constants.graph_layer_bytes * sizes * model.num_hidden_layers / par.pp
    other = constants.context_bytes + (constants.communicator_bytes if par.gpus > 1 else 0.0)
    available = requested - weights - activation - graphs - other
    return MemoryPlan(
        requested_bytes=requested,
        weights_bytes=weights,
        activation_bytes=activation,
        cuda_graph_bytes=graphs,
        other_bytes=other,
        available_kv_bytes=available,
        block_size=settings.block_size,
        kv_bytes_per_block=block_bytes,
        kv_bytes_per_token=(full_groups + window_groups) * layers * layer_bytes,
        full_groups=full_groups,
        window_groups=window_groups,
        window_blocks=-(-(model.sliding_window - 1) // settings.block_size) + 1 if window_groups else 0,
        state_blocks=math.ceil(state / block_bytes),
        num_gpu_blocks=max(int(available // block_bytes), 0),
        dp=par.dp,
        max_model_len=settings.max_model_len,
    )


def activation_bytes(pool: Pool, calibration: Calibration) -> float:
    """Return the peak of activations in a profile run: the wider of the MLP over a full batch and the sampler.

    The MLP holds the up projection, the gate's product and four hidden states (input, residual, norm, output); the
    sampler holds `logit_bytes` for each entry of the logits of `max_num_seqs` sequences. Routed tokens occupy K rows.
    """
    model, settings, tp = pool.model, pool.settings, pool.parallelism.tp
    ups = 3 if model.gated_mlp else 2
    routed = model.num_experts_per_tok * (model.hidden_size + ups * model.moe_intermediate_size / tp)
    width = max(ups * model.intermediate_size / tp, routed) + 4 * model.hidden_size
    sampler = settings.max_num_seqs * model.vocab_size * calibration.logit_bytes
    return max(_BF16_BYTES * settings.max_num_batched_tokens * width, sampler)


def _nearest_fit(pool: Pool, calibration: Calibration | None) -> str:
    """Return the first change that fits: a shorter context, fp8 KV, narrower weights, more GPUs."""
    settings, par = pool.settings, pool.parallelism
    tries = [
        (f"max_model_len {n}", replace(pool, settings=replace(settings, max_model_len=n)))
        for n in _halvings(settings.max_model_len)
    ]
    tries += [(f"KV in {d}", replace(pool, kv_dtype=d)) for d in ("fp8",) if pool.kv_dtype == "bf16"]
    tries += [(f"weights in {d}", replace(pool, weight_dtype=d)) for d in ("fp8", "int4")]
    tries += [(f"tp {tp}", replace(pool, parallelism=replace(par, tp=tp))) for tp in _doublings(par.tp)]
    return next((name for name, changed in tries if _fits(changed, calibration)), "a larger accelerator")


def _halvings(tokens: int) -> list[int]:
    """Return shorter contexts down to a quarter: below that it is another service."""
    return [tokens // 2, tokens // 4]


def _doublings(tp: int) -> list[int]:
    return [tp * 2**i for i in range(1, 5)]


def _fits(pool: Pool, calibration: Calibration | None) -> bool:
    try:
        check_parallelism(pool)
    except InfeasibleError:
        return False
    found = _plan(pool, calibration)
    return found.blocks_of(found.max_model_len) + 1 <= found.num_gpu_blocks
