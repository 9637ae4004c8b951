"""BLIS (inference-sim, Go) on the same trace: a `blis` built beforehand, run as one process.

Its trained-physics step time is linear in its coefficients. On a made-up model and accelerator, with round figures,
four of them make it step + token · T + context · C, but for whole microseconds, a prompt's own place in the batch
(18 µs) and the token a decode adds to its context. Its prefix cache cannot be switched off; prompts share nothing.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import cpu_s, say, workload

LAYERS, HIDDEN, HEADS, KV_HEADS, BYTES = 32, 4096, 32, 8, 2
HBM_TB_PER_S = 1.0
KV_US_PER_TOKEN = LAYERS * 2 * KV_HEADS * (HIDDEN // HEADS) * BYTES / (HBM_TB_PER_S * 1e6)
MODEL = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": 14336,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "num_hidden_layers": LAYERS,
    "vocab_size": 128256,
    "torch_dtype": "bfloat16",
    "hidden_act": "silu",
}
ACCELERATOR = {
    "TFlopsPeak": 1000.0,
    "TFlopsFP8": 1000.0,
    "BwPeakTBs": HBM_TB_PER_S,
    "mfuPrefill": 0.5,
    "mfuDecode": 0.5,
    "MemoryGiB": 80.0,
}
HEADER = "trace_version: 2\ntime_unit: microseconds\nmode: generated\nwarm_up_requests: 0\n"
#: a request's row: the columns of trace format 2 with what does not matter here
ROW = {
    "request_id": 0,
    "client_id": "c",
    "tenant_id": "t",
    "slo_class": "standard",
    "session_id": "",
    "round_index": 0,
    "prefix_group": "",
    "prefix_length": 0,
    "streaming": "true",
    "input_tokens": 0,
    "output_tokens": 0,
    "text_tokens": 0,
    "image_tokens": 0,
    "audio_tokens": 0,
    "video_tokens": 0,
    "reason_ratio": 0.0,
    "model": "",
    "deadline_us": 0,
    "server_input_tokens": 0,
    "arrival_time_us": 0,
    "send_time_us": 0,
    "first_chunk_time_us": 0,
    "last_chunk_time_us": 0,
    "num_chunks": 0,
    "status": "ok",
    "error_message": "",
    "finish_reason": "",
}


def write_inputs(folder: Path, given: dict[str, Any], count: int) -> None:
    """Write the first `count` requests, the model and the accelerator."""
    (folder / "model").mkdir(exist_ok=True)
    model = MODEL | {"max_position_embeddings": given["engine"]["max_model_len"]}
    (folder / "model/config.json").write_text(json.dumps(model), encoding="utf-8")
    (folder / "hardware.json").write_text(json.dumps({"unit": ACCELERATOR}), encoding="utf-8")
    (folder / "header.yaml").write_text(HEADER, encoding="utf-8")
    (folder / "defaults.yaml").write_text("defaults: {}\n", encoding="utf-8")
    with (folder / "trace.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.DictWriter(file, ROW)
        rows.writeheader()
        columns = (given[name][:count] for name in ("arrive_ns", "isl_tokens", "osl_tokens"))
        for index, (arrive_ns, isl, osl) in enumerate(zip(*columns, strict=True)):
            at = {"arrival_time_us": arrive_ns // 1000, "send_time_us": arrive_ns // 1000}
            lengths = {"input_tokens": isl, "text_tokens": isl, "server_input_tokens": isl, "output_tokens": osl}
            rows.writerow(ROW | at | lengths | {"request_id": index})


def command(blis: str, folder: Path, given: dict[str, Any]) -> list[str]:
    engine, cost_us = given["engine"], {name: 1e-3 * ns for name, ns in given["step_ns"].items()}
    beta = [0.0] * 10
    beta[5], beta[6] = cost_us["token"], cost_us["step"]  # per request in the batch, per step
    beta[8], beta[9] = (cost_us[name] / KV_US_PER_TOKEN for name in ("token", "context"))  # KV written, KV read
    options = {
        "trace-header": folder / "header.yaml",
        "trace-data": folder / "trace.csv",
        "defaults-filepath": folder / "defaults.yaml",
        "model": "unit",
        "model-config-folder": folder / "model",
        "hardware-config": folder / "hardware.json",
        "hardware": "unit",
        "tp": 1,
        "latency-model": "trained-physics",
        "alpha-coeffs": "0,0,0",
        "beta-coeffs": ",".join(map(str, beta)),
        "max-num-seqs": engine["max_num_seqs"],
        "max-num-batched-tokens": engine["max_num_batched_tokens"],
        "max-model-len": engine["max_model_len"],
        "total-kv-blocks": engine["num_gpu_blocks"],
        "block-size-in-tokens": engine["block_size"],
        "num-instances": given["replicas"],
        "routing-policy": "round-robin",
        "log": "error",
        "metrics-path": folder / "metrics.json",
        "results-path": folder / "results.json",
    }
    return [blis, "replay", *(f"--{name}={value}" for name, value in options.items())]


def run(blis: str, folder: Path, given: dict[str, Any], count: int) -> float:
    """CPU seconds of one process over the first `count` requests."""
    write_inputs(folder, given, count)
    begun = cpu_s()
    subprocess.run(command(blis, folder, given), check=True, capture_output=True)
    return cpu_s() - begun


def main() -> None:
    given, blis = workload(), sys.argv[2]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        setup_s = run(blis, folder, given, 1)
        used_s = run(blis, folder, given, len(given["arrive_ns"]))
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert metrics["completed_requests"] == len(results) == len(given["arrive_ns"])
    tpots_us = [(row["e2e_us"] - row["ttft_us"]) / max(1, row["output_tokens"] - 1) for row in results]
    say(
        {
            "setup_cpu_s": setup_s,
            "cpu_s": used_s - setup_s,
            "preemptions": metrics["preemption_count"],
            "makespan_s": metrics["vllm_estimated_duration_s"],
            "mean_ttft_s": metrics["ttft_mean_ms"] * 1e-3,
            "mean_tpot_s": sum(tpots_us) * 1e-6 / len(tpots_us),
        }
    )


if __name__ == "__main__":
    main()
