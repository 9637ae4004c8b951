"""What layers of linear attention take beside their projections: a recurrent state per sequence, chunks of a prompt.

    launch + n · sequence            a step, n being its sequences
    … + prompt launch + M · token    beside a prompt, M being all its tokens

The curves (`linear` in `data/curves`) are of gated delta nets, against memory: a sequence reads and writes its state, a
token moves a sixty-fourth of it. KDA and Mamba-2 layers take the same per byte of state: an assumption. Without curves
only the state is charged, at the rate of a kernel that streams.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from headway.perf.curves import curve_for

if TYPE_CHECKING:
    from headway.perf.constants import Calibration
    from headway.types import Pool

#: The share of a head's state that a token's query, key, value and output are: 4 · 128 · 2 of 128 · 128 · 4 bytes.
STATE_FRAC_PER_TOKEN = 1 / 64


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearRates:
    """Seconds linear attention takes, all layers: of a share of a step, a sequence of a share, a token of the step."""

    layers: int
    launch_s: float = 0.0
    sequence_s: float = 0.0
    prompt_launch_s: float = 0.0
    token_s: float = 0.0


def linear_rates(pool: Pool, constants: Calibration) -> LinearRates:
    """Return the rates of a pool's linear-attention layers; all zero where it has none."""
    model, shares = pool.model, pool.parallelism.pp * pool.parallelism.dp
    layers, state_bytes = model.linear_attention_layers, model.linear_state_bytes / pool.parallelism.tp
    if not layers or not state_bytes:
        return LinearRates(layers=layers)
    bytes_per_s = pool.accelerator.hbm_bytes_per_s
    decode, prefill = (
        curve_for(pool.accelerator, "linear", phase, pool.engine, extra=constants.curves)
        for phase in ("decode", "prefill")
    )
    if not decode or not prefill:
        streamed_s = 2 * state_bytes / (bytes_per_s * constants.gemm_memory_frac["bf16"])
        return LinearRates(layers=layers, sequence_s=layers * streamed_s)
    sequence_s = 2 * state_bytes / bytes_per_s / float(decode.efficiency(state_bytes=state_bytes))
    token_s = STATE_FRAC_PER_TOKEN * state_bytes / bytes_per_s / float(prefill.efficiency(state_bytes=state_bytes))
    return LinearRates(
        layers=layers,
        launch_s=layers * decode.fixed_s,
        sequence_s=layers * sequence_s,
        prompt_launch_s=layers * prefill.fixed_s,
        token_s=layers * token_s / shares,
    )
