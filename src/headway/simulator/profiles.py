"""What changed between versions of vLLM's scheduler, as switches.

Sources: the rules and recordings of 0.20.0, 0.32.0 and 0.33.0; 0.11.0 as read in its source. 0.32 and 0.33 are equal to
the real schedulers on thousands of random mixes. Of 0.20 and 0.11 some rules are not followed here, those of 0.32 stand
in for them: how output in flight comes to a request that was preempted under asynchronous scheduling, how a step that
verifies drafts is padded, and what KV loads reserve.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from headway.errors import InputError

#: drafters that run on the target's hidden states, one token ahead
READS_AHEAD = ("eagle", "eagle3", "mtp")
METHODS = ("ngram", "draft_model", *READS_AHEAD)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The scheduler of one version.

    Attributes:
        full_isl_gate: an admission needs blocks for the whole prompt (`scheduler_reserve_full_isl` exists).
        uncached_first: released blocks without a key go to the head of the free list; else all go to its end.
        lone_request_exempt: a request alone is not bound by long_prefill_token_threshold.
        priority_goes_on: after a request preempted itself, the next of running is tried.
        loras_of_all_running: max_loras counts the adapters of all running requests; else of those in this step.
        lookahead_hashes: with EAGLE-like drafters a block's key covers the next token; else the last hit is dropped.
        prefills_paced: `prefill_schedule_interval` holds for a replica by itself; else only in data parallelism.
        registers_processed: with an output, blocks are registered up to the last token that has been processed; else up
            to the last that is not expected any more, and only with asynchronous scheduling.
        holds_apart: only requests that own blocks wait in a line of their own; else all that were passed over do.
        window_tails: a window group registers blocks only where a hit may end; else every full one.
        one_more_batch: an asynchronous pipeline has one batch more than stages in flight; else as many.
        later_settings: there are `watermark`, `long_prefill_token_threshold_adaptive`, `max_num_active_seqs` and
            `prefill_schedule_interval`; else all but their defaults are refused.
    """

    full_isl_gate: bool = True
    uncached_first: bool = True
    lone_request_exempt: bool = True
    priority_goes_on: bool = True
    loras_of_all_running: bool = True
    lookahead_hashes: bool = True
    prefills_paced: bool = True
    registers_processed: bool = True
    holds_apart: bool = True
    window_tails: bool = True
    one_more_batch: bool = True
    later_settings: bool = True


_V033 = Profile()
_V032 = replace(
    _V033,
    priority_goes_on=False,
    loras_of_all_running=False,
    lookahead_hashes=False,
    prefills_paced=False,
    registers_processed=False,
)
_V020 = replace(
    _V032,
    uncached_first=False,
    lone_request_exempt=False,
    holds_apart=False,
    window_tails=False,
    one_more_batch=False,
    later_settings=False,
)
_V011 = replace(_V020, full_isl_gate=False)
PROFILES = {(0, 11): _V011, (0, 20): _V020, (0, 32): _V032, (0, 33): _V033}


def profile_of(version: str) -> Profile:
    """Return the switches of the newest known version that is not newer (of the oldest, for one older still).

    Raises:
        InputError: not a version number.
    """
    try:
        wanted = tuple(int(part) for part in version.split(".")[:2])
    except ValueError:
        raise InputError(
            f"expected a version such as 0.33.0, not {version!r}", file="replica", place="settings.version"
        ) from None
    older = [known for known in PROFILES if known <= wanted]
    return PROFILES[max(older, default=min(PROFILES))]
