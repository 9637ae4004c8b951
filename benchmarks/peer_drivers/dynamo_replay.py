"""NVIDIA Dynamo's offline replay (Rust) of the same trace: vLLM policy, round robin, no prefix cache, no telemetry.

Step times come from a profile made here. Its decode table holds step + token · n + context · S over (S, S / n), fine
enough in the second axis to be exact to a per mille; its prefill table holds token · (prompt tokens). A step without
decodes therefore lacks the constant part: the form of the profile leaves no place for it.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from common import metered, say, workload
from dynamo.replay import run_trace_replay


def write_trace(path: Path, given: dict[str, Any]) -> None:
    """One line per request; block ids are its own, so that nothing is shared."""
    block_size, next_id = given["engine"]["block_size"], 0
    with path.open("w", encoding="utf-8") as file:
        for arrive_ns, isl, osl in zip(given["arrive_ns"], given["isl_tokens"], given["osl_tokens"], strict=True):
            blocks = -(-isl // block_size)
            row = {"timestamp": arrive_ns * 1e-6, "input_length": isl, "output_length": osl}
            file.write(json.dumps(row | {"hash_ids": list(range(next_id, next_id + blocks))}) + "\n")
            next_id += blocks


def write_profile(path: Path, given: dict[str, Any]) -> None:
    """Step times in ms as tables over tokens, and over (sum of contexts, mean context)."""
    engine, step_ns = given["engine"], given["step_ns"]
    per_step, per_token, per_context = (1e-6 * step_ns[name] for name in ("step", "token", "context"))
    context = np.geomspace(1.0, engine["max_model_len"], 256)
    contexts = np.array([0.0, float(engine["num_gpu_blocks"] * engine["block_size"])])
    prompt = np.array([0.0, float(engine["max_num_batched_tokens"])])
    np.savez(
        path,
        prefill_isl=prompt,
        prefill_ttft_ms=per_token * prompt,
        decode_active_kv_tokens=contexts,
        decode_context_length=context,
        decode_itl=per_step + contexts[:, None] * (per_token / context + per_context),
    )


def main() -> None:
    given = workload()
    with tempfile.TemporaryDirectory() as folder:
        trace, profile = Path(folder) / "trace.jsonl", Path(folder) / "profile.npz"
        write_trace(trace, given)
        write_profile(profile, given)
        timing = {"type": "external", "provider": "dynamo_profile", "config": {"path": str(profile)}}
        engine = given["engine"] | {"backend": "vllm", "enable_prefix_caching": False, "timing_model": timing}
        answer: dict[str, Any] = {}
        with metered(answer):
            report = run_trace_replay(
                str(trace),
                trace_block_size=engine["block_size"],
                extra_engine_args={"engine": engine},
                num_workers=given["replicas"],
                router_mode="round_robin",
            )
    found = report.summary
    assert found["completed_requests"] == len(given["arrive_ns"])
    # its own clock leaves out the reading of the trace: that share of the call's CPU time is setup
    reading_s = answer["cpu_s"] * (1 - 1e-3 * found["wall_time_ms"] / answer["wall_s"])
    answer["setup_cpu_s"] += reading_s
    answer["cpu_s"] -= reading_s
    answer |= {
        "makespan_s": found["duration_ms"] * 1e-3,
        "mean_ttft_s": found["mean_ttft_ms"] * 1e-3,
        "mean_tpot_s": found["mean_tpot_ms"] * 1e-3,
    }
    say(answer)


if __name__ == "__main__":
    main()
