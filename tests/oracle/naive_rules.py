"""What differs between versions of vLLM's scheduler, and what a replica's settings come to under its version."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headway.types import Replica


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Everything true is 0.33.0; an earlier version lacks what is false."""

    has_full_isl_gate: bool = True  # since 0.20: an admission needs blocks for all its known tokens
    has_watermark: bool = True
    has_adaptive_threshold: bool = True
    has_active_limit: bool = True  # max_num_active_seqs
    has_prefill_interval: bool = True  # local; before, only data parallel ranks throttled prefills
    lone_is_uncapped: bool = True  # long_prefill_token_threshold does not hold for a request that is alone
    keyless_first: bool = True  # released blocks without a key are reused first; before, appended like all others
    keeps_window_tails: bool = True  # of a window group, only blocks where a later request may resume; before, all
    holding_queue: bool = True  # requests that own blocks wait apart; before, all skipped ones did
    hashes_look_ahead: bool = True  # EAGLE's next token is part of the key; before, the last hit block was dropped
    counts_running_loras: bool = True  # max_loras counts all of running; before, those scheduled in this step
    goes_on_after_self: bool = True  # priority: a request that preempted itself does not end the running loop
    registers_processed: bool = True  # an output: all that is processed; before, what is certain
    one_more_batch: bool = True  # pipeline and async: one batch more than stages in flight


def rules_of(version: str) -> Rules:
    """Return the rules of the nearest known version that is not newer (SEMANTICS_VLLM, sections 9 and 10)."""
    number = tuple(int(part) for part in version.split(".")[:2])
    if number >= (0, 33):
        return Rules()
    at_0_32 = {
        "has_prefill_interval": False,
        "hashes_look_ahead": False,
        "counts_running_loras": False,
        "goes_on_after_self": False,
        "registers_processed": False,
    }
    if number >= (0, 32):
        return Rules(**at_0_32)
    at_0_20 = at_0_32 | {
        "has_watermark": False,
        "has_adaptive_threshold": False,
        "has_active_limit": False,
        "lone_is_uncapped": False,
        "keyless_first": False,
        "keeps_window_tails": False,
        "holding_queue": False,
        "one_more_batch": False,
    }
    if number >= (0, 20):
        return Rules(**at_0_20)
    return Rules(**at_0_20, has_full_isl_gate=False)


class Limits:
    """The settings that take some working out."""

    def __init__(self, replica: Replica) -> None:
        settings, speculation, transfer = replica.settings, replica.speculation, replica.kv_transfer
        rules = self.rules = rules_of(settings.version)
        self.seats = settings.max_num_seqs
        if settings.max_num_active_seqs is not None and rules.has_active_limit:
            self.seats = settings.max_num_active_seqs
        self.tokens = settings.max_num_batched_tokens
        if settings.max_num_scheduled_tokens is not None:
            self.tokens = settings.max_num_scheduled_tokens
        # a share of the engine's own count of blocks, which has one that is never used
        self.watermark = int(settings.watermark * (replica.num_gpu_blocks + 1)) if rules.has_watermark else 0
        self.interval = settings.prefill_schedule_interval if rules.has_prefill_interval else 1
        self.in_flight = self.batches_in_flight(settings.pipeline_parallel_size, settings.async_scheduling)
        self.has_connector = transfer is not None
        self.loads = transfer is not None and transfer.kv_role != "kv_producer"
        # a producer does without the output in flight of a preempted request: it is dropped, and nobody waits for it
        self.drops_stale = transfer is not None and transfer.kv_role != "kv_consumer"
        self.defers_frees = self.loads and self.in_flight > 1
        method = speculation.method if speculation else None
        self.drafts = speculation.num_speculative_tokens if speculation else 0
        self.draft_slots = int(method == "draft_model")  # of the input budget, for each scheduled request
        self.lookahead = 0 if method == "ngram" else self.drafts  # tokens that get blocks before they are scheduled
        is_hidden_state_method = method in ("eagle", "mtp")
        looks_ahead = rules.hashes_look_ahead and transfer is None
        self.key_lookahead = int(is_hidden_state_method and looks_ahead)
        self.drops_last_hit = is_hidden_state_method and not looks_ahead

    def batches_in_flight(self, stages: int, is_async: bool) -> int:
        if stages == 1 or self.rules.one_more_batch:
            return stages + int(is_async)
        return stages
