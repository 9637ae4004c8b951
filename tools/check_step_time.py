"""Compare the step-time model with published closed-loop measurements, and print the error that remains.

    python tools/check_step_time.py MEASUREMENTS.csv MODELS.csv HARDWARE.csv [--bands | --held-out]

Every row with a known shape, format and time per output token is predicted by a mean-field formula on `step`:

    TPOT ≈ T_decode(n, n·(isl + osl/2)) + (n − 1)/osl · (T_with one more prompt − T_decode)
    TTFT ≈ frontend + half a step + (1 + ρ/(2 (1 − ρ))) · T_with one more prompt,   ρ = n·T_prompt/(osl·TPOT)

with n = min(concurrency, what the KV blocks hold). `--held-out` fits the three shared times on every three of the six
large groups (model, accelerator, engine, format) and scores them on all groups left out (needs SciPy, takes minutes);
`--bands` prints the 5th and 95th percentile of measured / predicted − 1 as `perf/data/bands.yaml` has them.
"""

from __future__ import annotations

import argparse
import csv
import sys
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np

from headway.errors import HeadwayError
from headway.perf import Batch, Calibration, calibration, memory, step
from headway.types import Accelerator, EngineSettings, Model, Parallelism, Pool

ENGINES = {"vLLM": "vllm", "TensorRT-LLM": "tensorrt-llm", "SGLang": "sglang"}
HARDWARE = ("H100-SXM", "H200-SXM", "B200", "A100-80-SXM", "L40S", "MI300X")
MODELS = {
    "llama-3.1-8b": "meta-llama/Meta-Llama-3.1-8B",
    "llama-3.1-70b": "meta-llama/Meta-Llama-3.1-70B",
    "llama-3.1-405b": "meta-llama/Meta-Llama-3.1-405B",
    "qwen3-8b": "Qwen/Qwen3-8B",
    "qwen3-32b": "Qwen/Qwen3-32B",
    "qwen2.5-72b": "Qwen/Qwen2.5-72B-Instruct",
    "llama-2-70b": "meta-llama/Llama-2-70b",
    "qwen3-235b-a22b": "Qwen/Qwen3-235B-A22B",
    "minimax-m2.5": "MiniMaxAI/MiniMax-M2.5",
    "gpt-oss-120b": "openai/gpt-oss-120b",
    "deepseek-r1": "deepseek-ai/DeepSeek-R1",
    "deepseek-v3": "deepseek-ai/DeepSeek-V3",
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


def _table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


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


def _count(row: dict[str, str], name: str) -> int:
    return int(float(row[name])) if row[name] else 0


def read_model(row: dict[str, str]) -> Model:
    """Turn a row of the model facts into a model: dense, MoE, MLA or with sliding windows."""
    layers, hidden, heads = int(row["layers"]), int(row["hidden"]), int(row["heads"])
    dense_first, experts, width = _count(row, "dense_first_k"), _count(row, "experts"), _count(row, "moe_intermediate")
    full, tied = _count(row, "full_attn_layers") or layers, row["tie_embeddings"] == "True"
    return Model(
        name=row["model"],
        architecture=row["arch"],
        num_hidden_layers=layers,
        hidden_size=hidden,
        vocab_size=int(row["vocab"]),
        num_attention_heads=heads,
        num_key_value_heads=int(row["kv_heads"]),
        head_dim=int(row["head_dim"] or hidden // heads),
        intermediate_size=0 if experts and not dense_first else int(row["intermediate"]),
        max_position_embeddings=int(row["max_position"] or 131072),
        tie_word_embeddings=tied,
        weight_dtype="bf16",
        params=float(row["params_est_B"]) * 1e9,
        params_active=float(row["active_est_B"]) * 1e9 - (0 if tied else hidden * int(row["vocab"])),
        num_experts=experts,
        num_experts_per_tok=_count(row, "experts_active"),
        moe_intermediate_size=(width or int(row["intermediate"])) if experts else 0,
        shared_expert_intermediate_size=_count(row, "shared_experts") * width,
        moe_layers=layers - dense_first if experts else 0,
        q_lora_rank=_count(row, "q_lora_rank"),
        kv_lora_rank=_count(row, "kv_lora_rank"),
        qk_nope_head_dim=_count(row, "qk_nope_head_dim"),
        qk_rope_head_dim=_count(row, "qk_rope_head_dim") if row["kv_lora_rank"] else 0,
        v_head_dim=_count(row, "v_head_dim"),
        full_attention_layers=full,
        sliding_window_layers=layers - full,
        sliding_window=_count(row, "sliding_window"),
    )


def read_rows(measurements: Path, models: Path, hardware: Path) -> list[Row]:
    """Read the closed-loop rows that say enough to be predicted."""
    by_model = {row["model"]: row for row in _table(models)}
    by_key = {row["key"]: row for row in _table(hardware)}
    found = []
    for row in _table(measurements):
        if row["mode"] != "concurrency" or row["engine"] not in ENGINES or row["hw_key"] not in HARDWARE:
            continue
        if row["model_key"] not in MODELS or row["weight_dtype"] not in DTYPES or "disagg" in row["features"]:
            continue
        if any(word in (row["features"] + row["note"]).lower() for word in SPECULATION):
            continue
        tpot_ms = _number(row["tpot_ms_p50"]) or _number(row["tpot_ms_mean"])
        isl, osl, concurrency = (_number(row[name]) for name in ("isl", "osl", "concurrency"))
        if not (tpot_ms and isl and osl and concurrency and osl >= 2):
            continue
        ttft_ms = _number(row["ttft_ms_p50"]) or _number(row["ttft_ms_mean"])
        accelerator = read_accelerator(by_key[row["hw_key"]])
        pool = _pool(row, accelerator, read_model(by_model[MODELS[row["model_key"]]]), int(isl + osl))
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
        parallelism=Parallelism(**{name: int(_number(row[name]) or 1) for name in ("tp", "pp", "ep", "dp")}),
        weight_dtype=_weight_dtype(row),
        kv_dtype=_kv_dtype(row),
        replicas=1,
    )


def _weight_dtype(row: dict[str, str]) -> str:
    """Return the weight format: gpt-oss is published in mxfp4, DeepSeek and MiniMax in fp8 blocks."""
    if row["model_key"].startswith("gpt-oss"):
        return "mxfp4"
    blocks = row["model_key"].startswith(("deepseek", "minimax"))
    return "fp8_block" if blocks and DTYPES[row["weight_dtype"]] == "fp8" else DTYPES[row["weight_dtype"]]


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


SHARED = ("layer_fixed_s", "sequence_fixed_s", "launch_layer_s")
LIGHT_LOAD = 8  # concurrency up to which TTFT is the engine's own, not that of a burst of clients


def held_out(rows: list[Row]) -> None:
    """Fit the shared times on three large groups at a time, print the error on the groups left out."""
    from scipy.optimize import least_squares

    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault((*row.group, row.pool.weight_dtype), []).append(row)
    large = [group for group, members in groups.items() if len(members) >= 40]

    def errors(names: list[tuple[str, ...]], logs: np.ndarray) -> np.ndarray:
        found = []
        for name in names:
            pool = groups[name][0].pool
            times = dict(zip(SHARED, np.exp(logs), strict=True))
            constants = replace(calibration(pool.accelerator, pool.engine), **times)
            part = [np.log(predict(row, constants)[0] / row.tpot_s) for row in groups[name]]
            found.append(np.array(part) / np.sqrt(len(part)))
        return np.concatenate(found)

    pooled: list[float] = []
    for chosen in combinations(large, 3):
        start = np.log([20e-6, 20e-6, 400e-6])
        fit = least_squares(lambda x: errors(list(chosen), x), start, loss="soft_l1", f_scale=0.03, diff_step=1e-2)  # noqa: B023
        others = [name for name in groups if name not in chosen]
        scale = np.concatenate([np.full(len(groups[name]), np.sqrt(len(groups[name]))) for name in others])
        scores = list(np.expm1(errors(others, fit.x) * scale))
        show(" ".join(f"{1e6 * t:.0f}" for t in np.exp(fit.x)) + " us", scores)
        pooled += scores
    show("all splits", pooled)
    low, high = np.quantile(1 / (1 + np.array(pooled)) - 1, [0.05, 0.95])
    print(f"measured / predicted - 1, p5 to p95: {low:+.1%} {high:+.1%}")


def bands(scores: dict[str, list[tuple[Row, float, float]]]) -> None:
    """Print p5 and p95 of measured / predicted − 1 by region, as YAML."""
    tpot = {row.id: predicted for row, predicted, _ in scores["tpot"]}
    light = [entry for entry in scores["ttft"] if entry[0].concurrency <= LIGHT_LOAD]
    e2e, rate = [], []
    for row, ttft_s, measured_s in scores["ttft"]:
        predicted_s = ttft_s + (row.osl - 1) * tpot[row.id]
        measured_e2e_s = measured_s + (row.osl - 1) * row.tpot_s
        rate.append((row, 1 / predicted_s, 1 / measured_e2e_s))
        if row.concurrency <= LIGHT_LOAD:
            e2e.append((row, predicted_s, measured_e2e_s))
    for metric, entries in {"tpot": scores["tpot"], "ttft": light, "e2e": e2e, "output_tokens_per_s": rate}.items():
        regions: dict[tuple[bool, str], list[tuple[Row, float]]] = {}
        for row, predicted, measured in entries:
            on, pair = row.pool.accelerator, (row, measured / predicted - 1)
            for scope in ("", f"vendor: {on.vendor}", f"accelerator: {on.name}, engine: {row.pool.engine}"):
                regions.setdefault((row.pool.model.is_moe, scope), []).append(pair)
        for (experts, scope), pairs in sorted(regions.items()):
            low, high = np.quantile([error for _, error in pairs], [0.05, 0.95])
            groups = len({(row.group, row.pool.weight_dtype) for row, _ in pairs})
            where = f"for: {{{scope}}}, " if scope else ""
            print(
                f"  - {{metric: {metric}, {where}experts: {str(experts).lower()}, low: {100 * min(low, 0):.0f} %, "
                f"high: {100 * max(high, 0):.0f} %, source: {len(pairs)} rows in {groups} groups}}"
            )


def main() -> None:
    """Print the residuals by accelerator and engine."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("measurements", type=Path)
    parser.add_argument("models", type=Path)
    parser.add_argument("hardware", type=Path)
    parser.add_argument("--bands", action="store_true", help="print the error bands")
    parser.add_argument("--held-out", action="store_true", help="fit on some groups, score on the others")
    args = parser.parse_args()
    rows = read_rows(args.measurements, args.models, args.hardware)
    if args.held_out:
        held_out([row for row in rows if row.pool.accelerator.vendor == "nvidia" and not row.pool.model.is_moe])
    elif args.bands:
        bands(residuals(rows))
    else:
        report(residuals(rows))


def report(scores: dict[str, list[tuple[Row, float, float]]]) -> None:
    """Print the residuals of every metric by group."""
    for metric, found in scores.items():
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
