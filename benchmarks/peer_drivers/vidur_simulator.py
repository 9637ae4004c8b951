"""Vidur on the same trace: its chunked-prefill scheduler (Sarathi), round robin, metrics, traces and plots off.

Its own execution-time predictor is trained on profiles fetched from a hub. In its place stands one that returns the
common step time at once, which costs Vidur less than its own: no training, no table look-ups.
"""

from __future__ import annotations

import os
import tempfile
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}

from common import metered, say, workload
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


class Given:
    """A request generator that has them already."""

    requests: list[Request]

    def __init__(self, _: BaseRequestGeneratorConfig) -> None:
        """Need no configuration."""

    def generate(self) -> list[Request]:
        return self.requests


def make_simulator(given: dict[str, Any], folder: str) -> Simulator:
    engine = given["engine"]
    CommonStep.step_ns = given["step_ns"]
    Given.requests = [
        Request(arrived_at=arrive_ns * 1e-9, num_prefill_tokens=isl, num_decode_tokens=osl)
        for arrive_ns, isl, osl in zip(given["arrive_ns"], given["isl_tokens"], given["osl_tokens"], strict=True)
    ]
    for registry, key, stand_in in (
        (ExecutionTimePredictorRegistry, ExecutionTimePredictorType.LINEAR_REGRESSION, CommonStep),
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
            execution_time_predictor_config=LinearRegressionExecutionTimePredictorConfig(),
            metrics_config=MetricsConfig(
                write_metrics=False, enable_chrome_trace=False, store_plots=False, output_dir=folder
            ),
        )
    )


def main() -> None:
    given = workload()
    answer: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        simulator = make_simulator(given, folder)
        with metered(answer):
            simulator.run()
    served, count = Given.requests, len(Given.requests)
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
