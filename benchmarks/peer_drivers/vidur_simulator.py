"""Vidur on the same trace: its chunked-prefill scheduler (Sarathi), round robin, metrics, traces and plots off.

Its own execution-time predictors are trained on profiles fetched from a hub. In their place stands one that returns
the common step time at once, which costs Vidur less: no training, no table look-ups. With the word `trained` it is its
own predictor (linear regression, the quicker of the two it has), trained on a profile of the common step time
written here.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from common import cpu_s, metered, say, workload
from vidur._native.entities import ExecutionTime
from vidur.config import (
    BaseRequestGeneratorConfig,
    CacheConfig,
    ClusterConfig,
    LinearRegressionExecutionTimePredictorConfig,
    MetricsConfig,
    ReplicaConfig,
    RoundRobinGlobalSchedulerConfig,
    SarathiSchedulerConfig,
    SimulationConfig,
    SyntheticRequestGeneratorConfig,
)
from vidur.entities import Request
from vidur.execution_time_predictor import ExecutionTimePredictorRegistry
from vidur.execution_time_predictor.linear_regression_execution_time_predictor import (
    LinearRegressionExecutionTimePredictor,
)
from vidur.request_generator import RequestGeneratorRegistry
from vidur.simulator import Simulator
from vidur.types import ExecutionTimePredictorType, RequestGeneratorType


class CommonStep:
    """An execution-time predictor: step + token · T + context · C nanoseconds."""

    step_ns: dict[str, int]

    def __init__(self, **_: Any) -> None:
        """Take no notice of what the scheduler would train on."""

    def get_execution_time(self, batch: Any, _stage: int) -> ExecutionTime:
        """Vidur counts the token a decode is about to compute as there already."""
        computed = batch.total_num_kv_tokens - batch.total_num_q_tokens - batch.num_decode_tokens
        cost, ns = self.step_ns, batch.total_num_q_tokens
        ns = cost["step"] + cost["token"] * ns + cost["context"] * computed
        return ExecutionTime(1, ns * 1e-6, *[0.0] * 13)


class Trained(LinearRegressionExecutionTimePredictor):
    """Vidur's own predictor on a profile made here. Its times are in milliseconds and of one layer."""

    step_ns: dict[str, int]
    training_cpu_s = 0.0

    def __init__(self, **given: Any) -> None:
        begun = cpu_s()
        super().__init__(**given)
        Trained.training_cpu_s = cpu_s() - begun

    def _get_kv_parallel_communication_time(self, _batch: Any) -> float:
        """Left out of both of Vidur's predictors, which cannot be made without it."""
        return 0.0

    def _get_input_files(self) -> tuple[str, str, str, str]:
        """Write what the hub would give: per-token operations, and attention."""
        model, folder = self._replica_config.model_config, Path(self._cache_dir)
        per_step, per_token, per_context = (
            1e-6 * self.step_ns[name] / model.num_layers for name in ("step", "token", "context")
        )
        shape = {"n_embd": model.embedding_dim, "n_kv_head": model.num_kv_heads, "num_tensor_parallel_workers": 1}
        tokens = np.unique(np.geomspace(1, 8192, 300).astype(int))
        operations = ("attn_pre_proj", "attn_post_proj", "mlp_up_proj", "mlp_down_proj", "mlp_act", "attn_rope")
        compute = pd.DataFrame({"num_tokens": tokens, **{f"time_stats.{name}.median": 0.0 for name in operations}})
        compute["time_stats.attn_rope.median"] = per_step + per_token * tokens
        compute = compute.assign(
            **shape,
            n_head=model.num_q_heads,
            n_expanded_embd=model.mlp_hidden_dim,
            use_gated_mlp=model.use_gated_mlp,
            vocab_size=model.vocab_size,
        )
        contexts = range(0, 16385, 512)
        prefills = [(chunk, 1, context) for chunk, context in product(range(32, 8193, 480), contexts)]
        decodes = [(0, batch, context) for batch, context in product((1, 2, 4, 8, 16, 32, 64, 128, 256), contexts)]
        attention = pd.DataFrame(prefills + decodes, columns=["prefill_chunk_size", "batch_size", "kv_cache_size"])
        read_ms = per_context * attention["batch_size"] * attention["kv_cache_size"]
        attention = attention.assign(
            **shape,
            n_q_head=model.num_q_heads,
            block_size=self._block_size,
            **{f"time_stats.{name}.median": read_ms for name in ("attn_prefill", "attn_decode")},
        )
        files = [str(folder / name) for name in ("mlp.csv", "attention.csv")]
        for frame, file in zip((compute, attention), files, strict=True):
            frame.to_csv(file, index=False)
        return files[0], files[1], "", ""


class Given:
    """A request generator that has them already."""

    requests: list[Request]

    def __init__(self, _: BaseRequestGeneratorConfig) -> None:
        """Need no configuration."""

    def generate(self) -> list[Request]:
        return self.requests


def make_simulator(given: dict[str, Any], folder: str, predictor: type[CommonStep | Trained]) -> Simulator:
    engine = given["engine"]
    predictor.step_ns = given["step_ns"]
    Given.requests = [
        Request(arrived_at=arrive_ns * 1e-9, num_prefill_tokens=isl, num_decode_tokens=osl)
        for arrive_ns, isl, osl in zip(given["arrive_ns"], given["isl_tokens"], given["osl_tokens"], strict=True)
    ]
    for registry, key, stand_in in (
        (ExecutionTimePredictorRegistry, ExecutionTimePredictorType.LINEAR_REGRESSION, predictor),
        (RequestGeneratorRegistry, RequestGeneratorType.SYNTHETIC, Given),
    ):
        registry.unregister(key)
        registry.register(key, stand_in)
    return Simulator(
        SimulationConfig(
            log_level="error",
            cluster_config=ClusterConfig(
                num_replicas=given["replicas"],
                replica_config=ReplicaConfig(num_pipeline_stages=1, tensor_parallel_size=1),
                cache_config=CacheConfig(
                    block_size=engine["block_size"],
                    num_blocks=engine["num_gpu_blocks"],
                    watermark_blocks_fraction=0.0,
                ),
                global_scheduler_config=RoundRobinGlobalSchedulerConfig(),
                replica_scheduler_config=SarathiSchedulerConfig(
                    batch_size_cap=engine["max_num_seqs"], chunk_size=engine["max_num_batched_tokens"]
                ),
            ),
            request_generator_config=SyntheticRequestGeneratorConfig(max_tokens=engine["max_model_len"]),
            execution_time_predictor_config=LinearRegressionExecutionTimePredictorConfig(
                prediction_max_prefill_chunk_size=engine["max_num_batched_tokens"],
                prediction_max_batch_size=engine["max_num_seqs"],
                prediction_max_tokens_per_request=engine["max_model_len"],
                attention_decode_batching_overhead_fraction=0.0,
                num_training_job_threads=1,
                cache_dir=folder,
            ),
            metrics_config=MetricsConfig(
                write_metrics=False, enable_chrome_trace=False, store_plots=False, output_dir=folder
            ),
        )
    )


def main() -> None:
    given = workload()
    answer: dict[str, Any] = {}
    logging.disable(logging.INFO)
    predictor = Trained if sys.argv[2:] == ["trained"] else CommonStep
    with tempfile.TemporaryDirectory() as folder:
        simulator = make_simulator(given, folder, predictor)
        with metered(answer):
            simulator.run()
    served, count = Given.requests, len(Given.requests)
    if predictor is Trained:
        answer["training_cpu_s"] = Trained.training_cpu_s
    answer |= {
        "preemptions": sum(request.num_restarts for request in served),
        "makespan_s": max(request.completed_at for request in served),
        "mean_ttft_s": sum(request.prefill_completed_at - request.arrived_at for request in served) / count,
        "mean_tpot_s": sum(
            (request.completed_at - request.prefill_completed_at) / max(1, osl - 1)
            for request, osl in zip(served, given["osl_tokens"], strict=True)
        )
        / count,
    }
    say(answer)


if __name__ == "__main__":
    main()
