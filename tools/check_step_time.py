"""Compare the step-time model with published closed-loop measurements, and print the error that remains.

    python tools/check_step_time.py MEASUREMENTS.csv MODELS.csv HARDWARE.csv [--fit]

Every dense row with a known shape, format and time per output token is predicted by a mean-field formula on `step`:

    TPOT ≈ T_decode(n, n·(isl + osl/2)) + (n − 1)/osl · (T_with one more prompt − T_decode)
    TTFT ≈ frontend + half a step + (1 + ρ/(2 (1 − ρ))) · T_with one more prompt,   ρ = n·T_prompt/(osl·TPOT)

with n = min(concurrency, what the KV blocks hold). Rows are grouped by (model, accelerator, engine); with `--fit` the
constants are chosen on half the groups and scored on the other half, never split by row.
"""

from __future__ import annotations

import argparse
import csv
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from headway.errors import HeadwayError
from headway.perf import Batch, Calibration, calibration, memory, step
from headway.types import Accelerator, EngineSettings, Model, Parallelism, Pool

ENGINES = {"vLLM": "vllm", "TensorRT-LLM": "tensorrt-llm", "SGLang": "sglang"}
HARDWARE = ("H100-SXM", "H200-SXM", "B200", "A100-80-SXM", "L40S", "MI300X")
DENSE = {
    "llama-3.1-8b": "meta-llama/Meta-Llama-3.1-8B",
    "llama-3.1-70b": "meta-llama/Meta-Llama-3.1-70B",
    "llama-3.1-405b": "meta-llama/Meta-Llama-3.1-405B",
    "qwen3-8b": "Qwen/Qwen3-8B",
    "qwen3-32b": "Qwen/Qwen3-32B",
    "qwen2.5-72b": "Qwen/Qwen2.5-72B-Instruct",
    "llama-2-70b": "meta-llama/Llama-2-70b",
}
DTYPES = {"bf16": "bf16", "bf16/native": "bf16", "fp8": "fp8", "fp4": "nvfp4", "nvfp4": "nvfp4"}
SPECULATION = ("spec", "eagle", "mtp", "ngram")
GRAPHS = (1, 2, 4, *range(8, 256, 8), *range(256, 513, 16))


@dataclass(frozen=True)
class Row:
    """One measurement and the pool it was taken on."""

    id: str
    group: tuple[str, str, str]
    pool: Pool
    concurrency: int
    isl: int
    osl: int
    tpot_s: float
    ttft_s: float | None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def read_accelerator(row: dict[str, str]) -> Accelerator:
    """Turn a row of the hardware facts into an accelerator."""
    peaks = {
        "bf16": _number(row["bf16_tflops_dense"]),
        "fp8": _number(row["fp8_tflops_dense"]),
        "fp4": _number(row["fp4_tflops_dense"]),
        "int8": _number(row["int8_tops_dense"]),
    }
    link = _number(row["scaleup_GBps_per_dir"])
    return Accelerator(
        name=row["key"].lower(),
        title=row["name"],
        vendor=row["vendor"].lower(),
        hbm_bytes=float(row["mem_gb"]) * 2**30,
        hbm_bytes_per_s=float(row["mem_bw_GBps"]) * 1e9,
        peak_flops_per_s={name: peak * 1e12 for name, peak in peaks.items() if peak},
        scale_up_gpus=8 if link else 1,
        scale_up_bytes_per_s=(link or 32) * 1e9,
        scale_out_bytes_per_s=50e9,
        gpus_per_node=8,
        board_power_w=None,
    )


def read_model(row: dict[str, str]) -> Model:
    """Turn a row of the model facts into a dense model."""
    layers, hidden, heads = int(row["layers"]), int(row["hidden"]), int(row["heads"])
    params = float(row["params_est_B"]) * 1e9
    return Model(
        name=row["model"],
        architecture=row["arch"],
        num_hidden_layers=layers,
        hidden_size=hidden,
        vocab_size=int(row["vocab"]),
        num_attention_heads=heads,
        num_key_value_heads=int(row["kv_heads"]),
        head_dim=int(row["head_dim"] or hidden // heads),
        intermediate_size=int(row["intermediate"]),
        max_position_embeddings=int(row["max_position"] or 131072),
        tie_word_embeddings=row["tie_embeddings"] == "True",
        weight_dtype="bf16",
        params=params,
        params_active=params,
        full_attention_layers=layers,
    )


def read_rows(measurements: Path, models: Path, hardware: Path) -> list[Row]:
    """Read the dense closed-loop rows that say enough to be predicted."""
    by_model = {row["model"]: row for row in csv.DictReader(models.open(encoding="utf-8"))}
    by_key = {row["key"]: row for row in csv.DictReader(hardware.open(encoding="utf-8"))}
    found = []
    for row in csv.DictReader(measurements.open(encoding="utf-8")):
        if row["mode"] != "concurrency" or row["engine"] not in ENGINES or row["hw_key"] not in HARDWARE:
            continue
        if row["model_key"] not in DENSE or row["weight_dtype"] not in DTYPES or "disagg" in row["features"]:
            continue
        if any(word in (row["features"] + row["note"]).lower() for word in SPECULATION):
            continue
        tpot_ms = _number(row["tpot_ms_p50"]) or _number(row["tpot_ms_mean"])
        isl, osl, concurrency = (_number(row[name]) for name in ("isl", "osl", "concurrency"))
        if not (tpot_ms and isl and osl and concurrency and osl >= 2):
            continue
        ttft_ms = _number(row["ttft_ms_p50"]) or _number(row["ttft_ms_mean"])
        accelerator = read_accelerator(by_key[row["hw_key"]])
        pool = _pool(row, accelerator, read_model(by_model[DENSE[row["model_key"]]]), int(isl + osl))
        found.append(
            Row(
                id=row["id"],
                group=(row["model_key"], row["hw_key"], row["engine"]),
                pool=pool,
                concurrency=int(concurrency),
                isl=int(isl),
                osl=int(osl),
                tpot_s=tpot_ms / 1e3,
                ttft_s=ttft_ms / 1e3 if ttft_ms else None,
            )
        )
    return found


def _pool(row: dict[str, str], accelerator: Accelerator, model: Model, max_model_len: int) -> Pool:
    settings = EngineSettings(
        max_num_seqs=1024,
        max_num_batched_tokens=8192,
        max_model_len=max_model_len,
        gpu_memory_utilization=0.92,
        cuda_graph_sizes=GRAPHS,
    )
    return Pool(
        name=row["id"],
        model=model,
        accelerator=accelerator,
        engine=ENGINES[row["engine"]],
        engine_version=row["engine_version"],
        settings=settings,
        parallelism=Parallelism(tp=int(_number(row["tp"]) or 1), pp=int(_number(row["pp"]) or 1)),
        weight_dtype=DTYPES[row["weight_dtype"]],
        kv_dtype=_kv_dtype(row),
        replicas=1,
    )


def _kv_dtype(row: dict[str, str]) -> str:
    """Return the KV format: as stated; TensorRT-LLM takes fp8 from NVIDIA's quantised checkpoints, others keep bf16."""
    if row["kv_dtype"]:
        return "fp8" if row["kv_dtype"].startswith("fp8") else "bf16"
    return "fp8" if row["engine"] == "TensorRT-LLM" and DTYPES[row["weight_dtype"]] != "bf16" else "bf16"


def predict(row: Row, constants: Calibration | None = None) -> tuple[float, float]:
    """Return (TPOT, TTFT) in seconds by the mean-field formulae above."""
    constants = constants or calibration(row.pool.accelerator, row.pool.engine)
    held = memory(row.pool, constants)
    running = min(row.concurrency, max(held.num_gpu_blocks // held.blocks_of(row.isl + row.osl), 1))
    contexts = np.full(running, row.isl + row.osl // 2)
    decode_s = step(row.pool, Batch.of(contexts), constants).total_s
    budget = row.pool.settings.max_num_batched_tokens
    chunks = [(min(budget, row.isl - start), start) for start in range(0, row.isl, budget)]
    with_prompt_s = sum(step(row.pool, Batch.of(contexts[1:], [chunk]), constants).total_s for chunk in chunks)
    prompt_s = max(with_prompt_s - len(chunks) * decode_s, 0.0)
    tpot_s = decode_s + (running - 1) / row.osl * prompt_s
    busy = min(running * prompt_s / (row.osl * tpot_s), 0.95)
    ttft_s = constants.frontend_s + decode_s / 2 + (1 + busy / (2 * (1 - busy))) * with_prompt_s
    return tpot_s, ttft_s


def residuals(rows: list[Row], constants: Calibration | None = None) -> dict[str, list[tuple[Row, float, float]]]:
    """Return by metric (row, predicted, measured) of every row that can be predicted."""
    found: dict[str, list[tuple[Row, float, float]]] = {"tpot": [], "ttft": []}
    for row in rows:
        try:
            tpot_s, ttft_s = predict(row, constants)
        except HeadwayError as error:
            print(f"not predicted: {row.id} {error}", file=sys.stderr)
            continue
        found["tpot"].append((row, tpot_s, row.tpot_s))
        if row.ttft_s:
            found["ttft"].append((row, ttft_s, row.ttft_s))
    return found


def main() -> None:
    """Print the residuals by accelerator and engine."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("measurements", type=Path)
    parser.add_argument("models", type=Path)
    parser.add_argument("hardware", type=Path)
    args = parser.parse_args()
    rows = read_rows(args.measurements, args.models, args.hardware)
    for metric, found in residuals(rows).items():
        print(f"\n{metric}: {len(found)} rows; signed relative residual (predicted/measured − 1)")
        groups: dict[tuple[str, ...], list[float]] = {}
        for row, predicted, measured in found:
            groups.setdefault((*row.group, row.pool.weight_dtype), []).append(predicted / measured - 1)
        for group, errors in sorted(groups.items()):
            show(" ".join(group), errors)
        show("all", [error for errors in groups.values() for error in errors])


def show(name: str, errors: list[float]) -> None:
    """Print one line: rows, median and p90 of the absolute error, p5, median and p95 of the signed one."""
    absolute = np.abs(errors)
    low, middle, high = np.quantile(errors, [0.05, 0.5, 0.95])
    print(
        f"{name:44s} {len(errors):5d}  |e| p50 {np.median(absolute):6.1%} p90 {np.quantile(absolute, 0.9):6.1%}"
        f"  e p5 {low:+7.1%} p50 {middle:+7.1%} p95 {high:+7.1%}"
    )


if __name__ == "__main__":
    main()
