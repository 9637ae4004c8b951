"""What a schedule makes use of, in a few words."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headway.simulator.schedules.reading import Schedule


def features(schedule: Schedule) -> str:
    """Return the features of the scheduler that a schedule touches, separated by commas."""
    return ", ".join((*_engine(schedule), *_traffic(schedule)))


def _engine(schedule: Schedule) -> Iterator[str]:
    settings, replica = schedule.replica.settings, schedule.replica
    yield "async" if settings.async_scheduling else "sync"
    for value, words in (
        (settings.scheduling_policy != "fcfs", settings.scheduling_policy),
        (settings.pipeline_parallel_size > 1, f"PP {settings.pipeline_parallel_size}"),
        (not settings.enable_prefix_caching, "no prefix cache"),
        (not settings.enable_chunked_prefill, "no chunked prefill"),
        (not settings.scheduler_reserve_full_isl, "no full-prompt gate"),
        (settings.watermark, f"watermark {settings.watermark:g}"),
        (settings.long_prefill_token_threshold, f"long prefills {settings.long_prefill_token_threshold}"),
        (settings.long_prefill_token_threshold_adaptive, "adaptive threshold"),
        (settings.prefill_schedule_interval > 1, f"prefill interval {settings.prefill_schedule_interval}"),
        (settings.max_num_active_seqs, f"active seqs {settings.max_num_active_seqs}"),
        (settings.max_num_scheduled_tokens, f"scheduled tokens {settings.max_num_scheduled_tokens}"),
        (settings.max_loras, f"LoRAs {settings.max_loras}"),
        (replica.kv_groups, f"{len(replica.kv_groups)} KV groups"),
        (replica.kv_transfer, replica.kv_transfer and replica.kv_transfer.kv_role),
        (replica.speculation, _speculation(schedule)),
    ):
        if value:
            yield str(words)


def _speculation(schedule: Schedule) -> str:
    speculation = schedule.replica.speculation
    return f"{speculation.method} k={speculation.num_speculative_tokens}" if speculation else ""


def _traffic(schedule: Schedule) -> Iterator[str]:
    requests, totals = schedule.requests, schedule.meta.get("totals", {})
    for value, words in (
        (requests.max_tokens is not None, "stop tokens"),
        (requests.abort_s is not None, "aborts"),
        (any("salt" in row for row in schedule.rows.requests), "salts"),
        (_has_turns(schedule), "turns"),
        (totals.get("first_cached_tokens"), "prefix hits"),
        (totals.get("preemptions"), f"{totals.get('preemptions')} preemptions"),
    ):
        if value:
            yield words


def _has_turns(schedule: Schedule) -> bool:
    prompts = (row["prompt"] for row in schedule.rows.requests)
    return any(stream.startswith("o:") for prompt in prompts for stream, _, _ in prompt)
