"""Derives the shipped workload profiles from the real traces: `derive_profiles.py [NAME ...]`, else all.

The traces lie in ../shared/traces beside the repository, in azure/, mooncake/, agentic/, servegen/ and vidur/ as
published. Each profile is written to src/headway/workload/profiles/NAME.yaml, with figures of the trace and of
synthesised requests side by side. Needs scipy.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import fit
import numpy as np
import polars as pl
import yaml
from published_traces import (
    TRACES,
    agent_logs,
    agent_shared_frac,
    azure,
    beginnings,
    mooncake,
    mooncake_chains,
    servegen,
)

from headway.reading import parse_yaml
from headway.types import Requests
from headway.workload.prefixes import hit_tokens
from headway.workload.profiles import read_profile
from headway.workload.synthesis import generate

ROOT = Path(__file__).parents[1]
OUT = ROOT / "src" / "headway" / "workload" / "profiles"
#: Windows over which burstiness is stated.
WINDOWS_S = (1, 10, 60, 300)
TABLE = (
    "ISL quantiles and OSL quantiles in each tenth of the requests by rising ISL; log length linear in the normal score"
    " between them"
)
HMM = (
    "Markov-modulated Poisson process: Baum-Welch on counts in bins of {} s, number of states by least BIC; the bin"
    " chosen among {} by how well the Fano factors come back, which are therefore no independent check"
)
#: Bin widths that were tried, in seconds.
BINS_S = {"azure-code": "1, 2 and 5 s", "azure-conv": "5 and 15 s", "azure-mixed": "1 and 5 s"}


@dataclass
class Draft:
    """A profile before its facts are measured."""

    title: str
    source: str
    licence: str
    isl: np.ndarray
    osl: np.ndarray
    arrivals: object
    method: dict[str, str]
    times_s: np.ndarray | None = None
    shared_frac: float | None = None
    parts: dict[str, object] = field(default_factory=dict)  # sessions, system_prompts
    rows: int = 0


# --- the profiles --------------------------------------------------------------------------------------

AZURE = {"source": "Azure/AzurePublicDataset, AzureLLMInferenceTrace 2023", "licence": "CC-BY-4.0"}
MOONCAKE = {"source": "kvcache-ai/Mooncake, FAST25 conversation trace", "licence": "Apache-2.0"}


def _azure(name: str, title: str, kinds: tuple[str, ...], bin_s: float) -> Draft:
    columns = [np.concatenate(part) for part in zip(*(azure(kind) for kind in kinds), strict=True)]
    order = np.argsort(columns[0], kind="stable")
    times_s, isl, osl = (column[order] for column in columns)
    times_s = times_s - times_s[0]
    return Draft(
        **AZURE, title=title, isl=isl, osl=osl, times_s=times_s, arrivals=fit.modulated(times_s, bin_s),
        method={"lengths": TABLE, "arrivals": HMM.format(bin_s, BINS_S[name])},
    )  # fmt: skip


def azure_code() -> Draft:
    """Code completion: bursts of tens of requests per second between silences of minutes."""
    return _azure(
        "azure-code", "Code completion in an editor: long prompts, short outputs, strong bursts", ("code",), 1
    )


def azure_conv() -> Draft:
    """Chat."""
    return _azure(
        "azure-conv",
        "Chat with a production assistant: medium prompts and outputs, slow swings of the rate",
        ("conv",),
        5,
    )


def azure_mixed() -> Draft:
    """Both services of that hour together."""
    draft = _azure(
        "azure-mixed",
        "Chat and code completion on one fleet, as both services ran in the same hour",
        ("code", "conv"),
        5,
    )
    draft.method["lengths"] += "; both traces together, request by request"
    return draft


def mooncake_conversation() -> Draft:
    """Multi-turn chat with long contexts."""
    rows = mooncake()
    parents, depths, shared = mooncake_chains()
    times_s = np.array([row["timestamp"] for row in rows]) / 1e3
    going_on = np.array([parent is not None for parent in parents])
    isl = np.array([row["input_length"] for row in rows])
    longer = (np.median(isl[going_on]), np.median(isl[~going_on]))
    root = list(range(len(rows)))
    for index, parent in enumerate(parents):
        root[index] = index if parent is None else root[parent]
    turns = np.unique(root, return_counts=True)[1]
    lags_s = np.array([times_s[i] - times_s[p] for i, p in enumerate(parents) if p is not None])
    sessions = {
        "turns": _table(turns, (0, *np.arange(74, 100, 0.5), 99.9, 100)), "alike": "50 %", "response_time": "0 s",
        "think_time": _table(lags_s, (0, 1, 5, 25, 50, 75, 90, 95, 99, 100), " s"),
    }  # fmt: skip
    return Draft(
        **MOONCAKE, title="Multi-turn chat with long contexts and shared prefixes",
        isl=isl, osl=np.array([row["output_length"] for row in rows]),
        times_s=times_s, arrivals=fit.modulated(times_s, 30), shared_frac=shared,
        parts={"sessions": sessions, "system_prompts": beginnings(parents, depths)},
        method={
            "lengths": TABLE,
            "arrivals": HMM.format(30, "15 s over session starts and 30 s over all requests")
            + " (the trace's times are rounded to 3 s: burstiness below that is lost); fitted to requests but drives"
            " session starts, so requests come out smoother than the trace's",
            "prefixes": "a request continues another whose blocks but the last it repeats; turns and lags are those of"
            " these chains; lags run from arrival to arrival, so the response time is inside the think time; one block"
            " of 512 tokens begins all prompts, and first requests that share more share the mean of what they do;"
            " alike is set so that the share of prompt tokens seen before is the trace's, and ends at the edge of its"
            f" range: in the trace prompts that continue are longer (median {longer[0]:.0f} tokens against"
            f" {longer[1]:.0f}), which this model does not know",
        },
    )  # fmt: skip


def mooncake_long_context() -> Draft:
    """The long prompts of that trace alone."""
    rows = [row for row in mooncake() if row["input_length"] >= 32_768]
    times_s = np.array([row["timestamp"] for row in rows]) / 1e3
    return Draft(
        **MOONCAKE, title="Prompts of 32k tokens and more: the long tail of a chat service",
        isl=np.array([row["input_length"] for row in rows]), osl=np.array([row["output_length"] for row in rows]),
        times_s=times_s, arrivals=f"{len(rows) / times_s[-1]:.4g} req/s",
        method={"lengths": TABLE + "; prompts of at least 32,768 tokens", "arrivals": "Poisson at the mean rate",
                "prefixes": "left out: every request stands alone"},
    )  # fmt: skip


def coding_agent() -> Draft:
    """Agents that call tools and read files."""
    logs = [log["requests"] for log in agent_logs()]
    common = [log["tool_tokens"] + log["system_tokens"] for log in agent_logs()]
    rows = [row for log in logs for row in log]
    think_s = np.array([row["think_time"] for log in logs for row in log[1:] if "think_time" in row])
    response_s = np.array([row["api_time"] for row in rows if "api_time" in row])
    grid = (0, 1, 5, 10, 25, 50, 75, 90, 95, 99, 99.9)
    sessions = {
        "turns": _table(np.array([len(log) for log in logs]), (0, 5, 10, 25, 50, 75, 90, 95, 99, 100)),
        "think_time": _table(think_s, grid, " s"), "response_time": _table(response_s, grid, " s"), "alike": "60 %",
    }  # fmt: skip
    return Draft(
        title="Coding agents: tens of turns, contexts of 100k tokens that grow from turn to turn",
        source="callanjfox/kv-cache-tester, agentic coding sessions", licence="Apache-2.0",
        isl=np.array([row["in"] for row in rows]), osl=np.maximum([row["out"] for row in rows], 1),
        arrivals="1 req/s", shared_frac=agent_shared_frac(), parts={"sessions": sessions},
        method={
            "lengths": TABLE + f"; requests of the main agents, outputs of no token count as one; tools and system"
            f" prompt of median {int(np.median(common))} tokens, inside the prompts",
            "arrivals": "Poisson session starts; ASSUMED, and so is the rate: the sessions have no common clock",
            "prefixes": "turns, think times (to p99.9) and response times as logged; alike is set so that the share of"
            " prompt tokens seen before in the same session is the trace's; nothing is shared between sessions",
        },
    )  # fmt: skip


def _servegen(title: str, name: str, arrivals: object, method: str) -> Draft:
    clients = servegen(name)
    left = f"; clients without histograms ({100 * (1 - clients.kept_frac):.0f} % of the requests) are left out"
    return Draft(
        title=title, source=f"alibaba/ServeGen, {name}", licence="Apache-2.0", isl=clients.isl, osl=clients.osl,
        arrivals=arrivals,
        method={
            "lengths": TABLE
            + f"; 500,000 draws from the histograms of {clients.clients} clients, weighted by their rates"
            + (left if clients.kept_frac < 1 else ""),
            "arrivals": method,
        },
    )  # fmt: skip


GAMMA = (
    "gamma renewal at the mean rate; CV² is the mean of the clients' CV² weighted by rate, the long-run Fano factor of"
    " independent clients together"
)


def _renewal(name: str) -> dict[str, object]:
    clients = servegen(name)
    return {"process": "gamma", "rate": f"{clients.rate_by_hour.mean():.4g} req/s", "cv": round(clients.cv, 3)}


def servegen_reasoning() -> Draft:
    """A reasoning model's API."""
    return _servegen("A reasoning model's API: long outputs", "deepseek-r1", _renewal("deepseek-r1"), GAMMA)


def servegen_small() -> Draft:
    """A small language model's API."""
    return _servegen("A small model's API at a high rate: short prompts, answers of a few tokens", "m-small",
                     _renewal("m-small"), GAMMA)  # fmt: skip


def servegen_small_day() -> Draft:
    """The same over a day."""
    clients = servegen("m-small")
    table = [f"{rate:.4g} req/s" for rate in clients.rate_by_hour]
    arrivals = {"process": "diurnal", "table": table, "cv": round(clients.cv, 3)}
    method = GAMMA.replace("at the mean rate", "at the mean rate of each hour of the day")
    return _servegen(
        "A small model's API over a day: short prompts, answers of a few tokens", "m-small", arrivals, method
    )


def arxiv_summarisation() -> Draft:
    """Summaries of papers."""
    (path,) = (TRACES / "vidur").glob("arxiv*.csv")
    frame = pl.read_csv(path)
    return Draft(
        title="Summaries of papers: long prompts, bounded by a 4k context",
        source="microsoft/vidur, arXiv summarisation",
        licence="MIT", isl=frame["num_prefill_tokens"].to_numpy(), osl=frame["num_decode_tokens"].to_numpy(),
        arrivals="1 req/s",
        method={"lengths": TABLE, "arrivals": "Poisson; ASSUMED, and so is the rate: the source has no times"},
    )  # fmt: skip


def _table(values: np.ndarray, percentiles: tuple[float, ...], unit: str = "") -> dict[str, str]:
    found = np.quantile(values, np.array(percentiles) / 100, method="inverted_cdf")
    return {f"p{p:g}": f"{v:g}{unit}" if unit else int(v) for p, v in zip(percentiles, found, strict=True)}


PROFILES = {
    make.__name__.replace("_", "-"): make
    for make in (
        azure_code, azure_conv, azure_mixed, mooncake_conversation, mooncake_long_context, coding_agent,
        servegen_reasoning, servegen_small, servegen_small_day, arxiv_summarisation,
    )
}  # fmt: skip


# --- writing -------------------------------------------------------------------------------------------


def text_of(draft: Draft, facts: dict[str, dict[str, float]]) -> str:
    """The profile's YAML."""
    head = {
        "title": draft.title, "source": draft.source, "licence": draft.licence,
        "as_of": datetime.now(tz=UTC).date().isoformat(), "rows": draft.rows or len(draft.isl),
        "method": draft.method, "facts": facts,
    }  # fmt: skip
    body = {
        "workload": {"lengths": {"joint": fit.joint_table(draft.isl, draft.osl)}, "arrivals": draft.arrivals}
        | draft.parts
    }
    dumped = [
        yaml.safe_dump(part, sort_keys=False, width=118, allow_unicode=True, default_flow_style=None)
        for part in (head, body)
    ]
    return "# Written by tools/derive_profiles.py.\n" + "".join(dumped)


def measured(requests: Requests, shared_frac: float | None, *, timed: bool) -> dict[str, float]:
    """What is compared: length quantiles, burstiness, shared tokens."""
    facts: dict[str, float] = {}
    for name in ("isl", "osl"):
        column = getattr(requests, f"{name}_tokens")
        facts[f"{name}_mean_tokens"] = round(float(column.mean()), 1)
        facts |= {
            f"{name}_p{p}_tokens": v for p, v in zip((50, 90, 99), fit.quantiles(column, (50, 90, 99)), strict=True)
        }
    if timed:
        facts |= {f"fano_{w}s": round(fit.fano(requests.arrive_s, w), 2) for w in WINDOWS_S}
        gaps = np.diff(requests.arrive_s)
        facts["gap_cv"] = round(float(gaps.std() / gaps.mean()), 2)
    return facts | ({} if shared_frac is None else {"shared_frac": round(shared_frac, 4)})


def synthesised(draft: Draft) -> tuple[Requests, float | None]:
    """Requests of the draft, and the share of their prompt tokens seen before.

    50,000; ten times as many where they come in sessions, as few long sessions would say little of all.
    """
    spec = read_profile(parse_yaml(text_of(draft, {})), "draft").spec
    drawn = generate(spec, requests=500_000 if "sessions" in draft.parts else 50_000, seed=0)
    if drawn.prefix is None:
        return drawn, None
    return drawn, float(hit_tokens(drawn.prefix, drawn.isl_tokens).sum() / drawn.isl_tokens.sum())


def match_sharing(draft: Draft) -> None:
    """Set how alike a session's prompts are, to 1 %, so that the synthesised shared tokens are the trace's."""
    low, high = 0, 100
    while high - low > 1:
        middle = (low + high) // 2
        draft.parts["sessions"]["alike"] = f"{middle} %"
        low, high = (middle, high) if synthesised(draft)[1] < draft.shared_frac else (low, middle)


def main() -> None:
    """Derive the profiles named, or all."""
    for name in sys.argv[1:] or PROFILES:
        draft = PROFILES[name]()
        if "sessions" in draft.parts:
            match_sharing(draft)
        drawn, shared = synthesised(draft)
        timed = draft.times_s is not None
        real = Requests(arrive_s=draft.times_s if timed else np.zeros(1), isl_tokens=draft.isl, osl_tokens=draft.osl)
        facts = {
            "trace": measured(real, draft.shared_frac, timed=timed),
            "synthesised": measured(drawn, shared, timed=timed),
        }
        (OUT / f"{name}.yaml").write_text(text_of(draft, facts), encoding="utf-8")
        print(name, facts)


if __name__ == "__main__":
    main()
