"""Derives what InferenceX ran: `derive_recipes.py INFERENCEX SRT_SLURM`, the clones of two repositories.

    git clone --mirror https://github.com/SemiAnalysisAI/InferenceX
    git clone --mirror https://github.com/NVIDIA/srt-slurm

A dump of its results does not say how attention was spread, how many prefill and decode workers ran, or whether drafts
were verified; its list of sweeps does. Only configurations are read, never a result. Every version of the list on its
main branch is walked: an entry holds from the day it appears to the day it is gone. Seats, token budgets and KV formats
are those of the recipe an entry names, in srt-slurm. Written are two files in
src/headway/validation/data: recipes.csv, a line for each entry, and sweeps.csv, the images and days of each sweep.
"""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

import yaml

DATA = Path(__file__).parents[1] / "src" / "headway" / "validation" / "data"
#: the list of sweeps over time; what has since been moved out of it before its first run was listed
LISTS = (".github/configs/nvidia-master.yaml", "configs/nvidia-master.yaml")
MOVED = ("configs/deprecated/nvidia-glm5-glm5.1-master.yaml", "glm5-fp4-gb200-dynamo-trt")
#: the last day of the dump the recipes are for
UNTIL = "2026-05-31"
MODELS = ("dsr1", "dsv4", "gptoss", "kimik2.5", "glm5", "qwen3.5", "minimaxm2.5")
#: revisions of srt-slurm a recipe is looked up in: of the first and second quarter's submissions, and its last
RECIPES = ("d6e13fe3", "deb1dfd9", "c88ef731")
#: sweep and image whose launcher gives as many clients to each decode worker, and counts all of them
#: (ai-dynamo/dynamo, components/backends/trtllm/performance_sweeps/scripts/bench.sh)
PER_DECODE_WORKER = {("dsr1-fp4-gb200-dynamo-trt", "0.5.1-rc0.pre3")}
#: SGLang on GB200 in November 2025, before the list had it (runners/launch_gb200-nv.sh@0ba7aa3, 6 3 12 1)
NOVEMBER = (
    "dsr1-fp8-gb200-dynamo-sglang",
    ("1024", "1024", "1024 2048 4096 4608 4864 4992 5120 5376 5632 6144 8192", "0", "3:8:8:1:::", "1:48:48:1:::"),
    ("2025-11-05", "2025-12-05"),
)
GPUS_PER_NODE = 4  # of GB200 and GB300
#: scripts that spread a worker over its nodes without data-parallel attention, as the recipes of their names do since;
#: the list's remarks say otherwise of them, but DeepSeek-R1 in FP8 would not fit four GPUs so
TOGETHER = ("low-latency", "1p_4d")
#: drafts a step verifies where one node does both, the first that matches (benchmarks/single_node/*_mtp.sh, of April);
#: with attention over data-parallel ranks TensorRT-LLM's scripts verify one
DRAFTS = (("dsr1-*-trt-mtp", "3"), ("dsr1-*-sglang-mtp", "2"), ("dsv4-*-vllm-mtp", "2"), ("*", "3"))

Words = dict[str, Any]
Line = tuple[str, ...]


@dataclass
class Days:
    """From the day something is listed to the day it is gone; empty while it is there."""

    since: str
    until: str = ""


@dataclass
class Sweep:
    """One name of the list: its images and its lines, and when."""

    images: dict[str, Days] = field(default_factory=dict)
    lines: dict[Line, Days] = field(default_factory=dict)


@dataclass(frozen=True)
class Clone:
    """A git directory, which is only read."""

    directory: str

    def git(self, *words: str) -> str:
        """Return what git prints; empty where it fails."""
        done = subprocess.run(["git", "-C", self.directory, *words], capture_output=True, text=True, check=False)
        return done.stdout if done.returncode == 0 else ""


def main() -> None:
    """Write both tables."""
    inferencex, slurm = Clone(sys.argv[1]), Clone(sys.argv[2])
    sweeps = history(inferencex, Recipes(inferencex, slurm))
    days = runs(inferencex)
    with (DATA / "sweeps.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["sweep", "images", "days"])
        for name, sweep in sorted(sweeps.items()):
            images = " ".join(f"{tag}@{seen.since}:{seen.until}" for tag, seen in sweep.images.items())
            swept = {day for pattern, found in days.items() if fnmatch(name, pattern) for day in found if day <= UNTIL}
            table.writerow([name, images, " ".join(sorted(swept))])
    with (DATA / "recipes.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["sweep", "isl", "osl", "concurrency", "drafts", "prefill", "decode", "since", "until"])
        for name, sweep in sorted(sweeps.items()):
            for line, seen in sorted(completed(sweep.lines).items()):
                table.writerow([name, *line, seen.since, seen.until])


# --- the list over time -------------------------------------------------------------------------------


def history(clone: Clone, recipes: Recipes) -> dict[str, Sweep]:
    """Return what was listed, and when."""
    found: dict[str, Sweep] = {NOVEMBER[0]: Sweep()}
    for day, entries in versions(clone):
        now: dict[str, tuple[set[str], set[Line]]] = {}
        for name, entry in entries.items():
            tag = entry["image"].rsplit(":", 1)[-1].split("@")[0]
            now[name] = ({tag}, set(lines(name, tag, entry, recipes)))
        for name in now:
            found.setdefault(name, Sweep())
        for name, sweep in found.items():
            tags, listed = now.get(name, (set(), set()))
            update(sweep.images, tags, day)
            update(sweep.lines, listed, day)
    found[NOVEMBER[0]].lines[NOVEMBER[1]] = Days(*NOVEMBER[2])
    return found


def update(known: dict[Any, Days], now: set[Any], day: str) -> None:
    """Open what is new, close what is gone."""
    for key in now:
        known.setdefault(key, Days(day)).until = ""
    for key in known.keys() - now:
        known[key].until = known[key].until or day


def versions(clone: Clone) -> list[tuple[str, dict[str, Words]]]:
    """Return every version of the list by the day (UTC) it was on the main branch."""
    found: list[tuple[str, dict[str, Words]]] = []
    for path in LISTS:
        for line in clone.git("log", "--first-parent", "--reverse", "--format=%H %cI", "--", path).splitlines():
            revision, moment = line.split()
            day = utc_day(moment)
            if day <= UNTIL and (text := clone.git("show", f"{revision}:{path}")):
                found.append((day, listed(text, MODELS)))
    path, name = MOVED
    found[-1] = (found[-1][0], found[-1][1] | listed(clone.git("show", f"HEAD:{path}"), (name,)))
    return found


def utc_day(moment: str) -> str:
    """Return the day of a moment."""
    return datetime.fromisoformat(moment).astimezone(UTC).date().isoformat()


def listed(text: str, beginnings: tuple[str, ...]) -> dict[str, Words]:
    """Return the entries of a list whose names begin so."""
    return {name: entry for name, entry in read(text).items() if name.startswith(beginnings)}


def read(text: str) -> dict[str, Any]:
    """Return YAML as it stands."""
    return dict(yaml.load(text, Loader=yaml.CSafeLoader) or {})


def lines(name: str, tag: str, entry: Words, recipes: Recipes) -> list[Line]:
    """Return the lines of one entry of the list."""
    scenarios = entry.get("seq-len-configs") or (entry.get("scenarios") or {}).get("fixed-seq-len") or []
    found: list[Line] = []
    for scenario in scenarios:
        for space in scenario.get("search-space", []):
            prefill, decode = sides(space)
            told = recipes.told(prefill, decode) if prefill else script(name, decode)
            clients = concurrencies(space)
            if (name, tag) in PER_DECODE_WORKER:
                clients = [number * decode["num-worker"] for number in clients]
            found.append(
                (
                    str(scenario["isl"]),
                    str(scenario["osl"]),
                    " ".join(map(str, clients)),
                    "0" if space.get("spec-decoding", "none") == "none" else told.get("drafts", ""),
                    workers(prefill, told.get("prefill", "::")) if prefill else "",
                    workers(decode, told.get("decode", "::")),
                )
            )
    return found


def sides(space: Words) -> tuple[Words | None, Words]:
    """Return prefill and decode; no prefill where one does both."""
    prefill, decode = space.get("prefill"), space.get("decode", space)
    if prefill is None or (prefill.get("num-worker", 1) and decode.get("num-worker", 1)):
        together = prefill is not None and any(word in setting(prefill, "SCRIPT_MODE") for word in TOGETHER)
        off = {"dp-attn": False, "ep": 1} if together else {}
        return prefill and prefill | off, decode | off
    return None, prefill if prefill["num-worker"] else decode


def concurrencies(space: Words) -> list[int]:
    """Return the concurrencies of one entry: a list, or doubled from the first to the last."""
    if "conc-list" in space:
        return list(space["conc-list"])
    found, clients = [], space["conc-start"]
    while clients < space["conc-end"]:
        found.append(clients)
        clients *= 2
    return [*found, space["conc-end"]]


def workers(part: Words, limits: str) -> str:
    """Write one pool down as workers:gpus:ep:attention-dp:seats:tokens:kv.

    Where the list leaves the spread to a script, a worker has the nodes of four GPUs it names, its experts over all of
    them where attention is (the list's own remarks: DEP8, DEP32, DEP48).
    """
    count, gpus, ep, apart = part.get("num-worker", 1), part["tp"], part.get("ep", 1), bool(part.get("dp-attn"))
    nodes = setting(part, "NODES")
    if nodes and gpus == 1 and not setting(part, "MAX_BATCH_SIZE"):
        gpus = int(nodes) * GPUS_PER_NODE // count
        ep = gpus if apart else ep
    return f"{count}:{gpus}:{ep}:{int(apart)}:{limits}"


def setting(part: Words, ending: str) -> str:
    """Return what an entry sets by a name that ends so."""
    found = [text.split("=", 1)[1] for text in part.get("additional-settings") or [] if f"{ending}=" in text]
    return found[0] if found else ""


def script(name: str, part: Words) -> dict[str, str]:
    """Return the drafts of the script of a single node; what else it sets is in servers.csv."""
    drafts = next(number for pattern, number in DRAFTS if fnmatch(name, pattern))
    return {"drafts": "1" if "trt" in name and part.get("dp-attn") else drafts}


def completed(found: dict[Line, Days]) -> dict[Line, Days]:
    """Give lines whose recipes nobody keeps what the same workers have in the same sweep on another day."""
    whole: dict[Line, Line] = {}
    for line in found:
        if line[3] and not line[5].endswith("::"):
            whole.setdefault(shape(line), line)
    joined: dict[Line, Days] = {}
    for line, days in found.items():
        like = whole.get(shape(line), line) if line[5].endswith("::") else line
        key = (*line[:3], like[3] or "3", *like[4:])
        seen = joined.setdefault(key, Days(days.since, days.until))
        seen.since = min(seen.since, days.since)
        seen.until = max(seen.until, days.until) if seen.until and days.until else ""
    return joined


def shape(line: Line) -> Line:
    """Return lengths, whether there are drafts, and the workers without their limits."""
    bare = (":".join(text.split(":")[:4]) for text in line[4:])
    return (*line[:2], str(line[3] != "0"), *bare)


def runs(clone: Clone) -> dict[str, set[str]]:
    """Return the days (UTC) on which the changelog asked for a run, by pattern of sweeps' names."""
    words = ("log", "--first-parent", "--reverse", "--format=@%cI", "-p", "-U0", "HEAD", "--", "perf-changelog.yaml")
    found: dict[str, set[str]] = {}
    day = ""
    for line in clone.git(*words).splitlines():
        if re.match(r"@\d", line):
            day = utc_day(line[1:])
        elif asked := re.match(r"\+\s+-\s+[\"']?([a-z0-9.*]+-[a-z0-9.*-]+|[a-z0-9]+\*)[\"']?\s*$", line):
            found.setdefault(asked[1], set()).add(day)
    return found


# --- the recipes it names -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipes:
    """Recipes of several nodes, in both repositories."""

    inferencex: Clone
    slurm: Clone

    def told(self, prefill: Words, decode: Words) -> dict[str, str]:
        """Return `prefill` and `decode` (seats:tokens:kv) and `drafts`, as far as somebody says."""
        if name := setting(prefill, "CONFIG_FILE") or setting(decode, "CONFIG_FILE"):
            path, _, variant = name.partition(":")
            return recipe(varied(read(self._text(path)), variant)) or by_name(path)
        found = {"drafts": setting(decode, "MTP_SIZE")} if setting(decode, "MTP_SIZE") else {}
        for role, part in (("prefill", prefill), ("decode", decode)):
            if seats := setting(part, "MAX_BATCH_SIZE"):
                found[role] = f"{seats}:{setting(part, 'MAX_NUM_TOKENS')}:fp8"
        return found

    def _text(self, path: str) -> str:
        places = [(self.slurm, revision, path) for revision in RECIPES]
        places.append((self.inferencex, "HEAD", "benchmarks/multi_node/srt-slurm-" + path))
        return next((text for place in places if (text := shown(*place))), "")


@cache
def shown(clone: Clone, revision: str, path: str) -> str:
    """Return a file of a revision; empty where there is none."""
    return clone.git("show", f"{revision}:{path}")


def varied(whole: Words, variant: str) -> Words:
    """Return a recipe, or one variant of a file of several: its base with what the variant puts in its place."""
    if not variant or not whole:
        return whole
    name, _, index = variant.rstrip("]").partition("[")
    return dict(merged(whole["base"], whole.get(name) or {}, int(index) if index else None))


def merged(base: Any, over: Any, index: int | None) -> Any:
    """Return the base with what goes before it; of a list the element of the variant."""
    if isinstance(over, dict):
        under = base if isinstance(base, dict) else {}
        return under | {key: merged(under.get(key), value, index) for key, value in over.items()}
    return over[index] if index is not None and isinstance(over, list) else over


def recipe(words: Words) -> dict[str, str]:
    """Return what a recipe sets."""
    backend = words.get("backend", {})
    engine: Words = next((backend[name] for name in backend if name.endswith(("trtllm_config", "sglang_config"))), {})
    found = {role: limits(engine[role]) for role in ("prefill", "decode") if engine.get(role)}
    decode = engine.get("decode") or {}
    drafts = (decode.get("speculative_config") or {}).get("num_nextn_predict_layers")
    drafts = drafts or decode.get("speculative-num-steps")
    return found | ({"drafts": str(drafts)} if drafts else {})


def limits(words: Words) -> str:
    """Return seats:tokens:kv of each data-parallel rank of one role; SGLang is told those of all ranks together."""
    ranks = words.get("data-parallel-size") or words.get("dp-size") or 1
    seats = words.get("max_batch_size") or words.get("max-running-requests", 0) // ranks or ""
    tokens = words.get("max_num_tokens") or words.get("chunked-prefill-size", 0) // ranks or ""
    kv = (words.get("kv_cache_config") or {}).get("dtype") or words.get("kv-cache-dtype") or "bf16"
    return f"{seats}:{tokens}:{'fp8' if 'fp8' in kv else 'bf16'}"


def by_name(path: str) -> dict[str, str]:
    """Return what the name of a recipe says: ctx1_gen5_tep8_batch32_eplb0_mtp3."""
    batch, drafts = re.search(r"batch(\d+)", path), re.search(r"mtp([1-9])", path)
    found = {"decode": f"{batch[1]}::fp8"} if batch else {}
    return found | ({"drafts": drafts[1]} if drafts else {})


if __name__ == "__main__":
    main()
