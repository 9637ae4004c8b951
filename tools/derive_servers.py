"""Derives what InferenceX's servers were started with: `derive_servers.py INFERENCEX`, a clone of its repository.

    git clone --mirror https://github.com/SemiAnalysisAI/InferenceX

Every version of each script of one node, on the main branch up to `UNTIL`, is read for every load it may be given, by
bash itself: restricted, without a PATH, its output redirections taken out, so that it can start nothing and write
nowhere; what it would have started, and the configuration it would have written, it says. Only scripts are read, never
a result. Written is src/headway/validation/data/servers.csv: a line for each command, and the conditions it was for
(empty: any; concurrency: the least). The number of clients itself is written `conc`.
"""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

import yaml

TARGET = Path(__file__).parents[1] / "src" / "headway" / "validation" / "data" / "servers.csv"
SINCE, UNTIL = "2025-10-01", "2026-05-31"
SCRIPT = re.compile(
    r"benchmarks/(?:single_node/)?(?:fixed_seq_len/)?"
    r"(?P<model>70b|dsr1|gptoss|kimik2\.5|glm5|qwen3\.5|minimaxm2\.5)_(?P<precision>fp4|fp8|bf16|int4|nvfp4)_"
    r"(?P<accelerator>b200|b300|h100|h200)(?P<engine>_trt|_vllm|_sglang)?(?P<drafts>_mtp)?(?P<launcher>_slurm|_docker)?\.sh"
)
#: what a script may be given
LENGTHS = (("1024", "1024"), ("1024", "8192"), ("8192", "1024"))
GIVEN_SPREAD = ("TP", "EP_SIZE", "DP_ATTENTION")
CLIENTS = tuple(1 << power for power in range(11))
DIMENSIONS = ("isl", "osl", "tp", "ep", "attention_dp")
#: what decides how a server schedules and what it holds; TensorRT-LLM's nested names by those of SGLang
KEPT = (
    "chunked-prefill-size",
    "max-prefill-tokens",
    "max-running-requests",
    "mem-fraction-static",
    "scheduler-recv-interval",
    "max-num-seqs",
    "max-num-batched-tokens",
    "gpu-memory-utilization",
    "async-scheduling",
    "max-batch-size",
    "max-num-tokens",
    "batch-wait-timeout-iters",
    "batch-wait-max-tokens-ratio",
    "cuda-graph-max-bs",
    "kv-cache-dtype",
)
RENAMED = {"cuda-graph-config.max-batch-size": "cuda-graph-max-bs", "kv-cache-config.dtype": "kv-cache-dtype"}
#: engines of scripts that name none
SGLANG = ("dsr1", "glm5", "qwen3.5")
#: runs a script once per line of what it may be given; says `@` words of what it would start, `:` lines it would write
SHELL = r"""
command_not_found_handle() { local IFS=$'\x1f'; printf '@%s\n' "$*"; }
cat() { local line; [ $# -gt 0 ] || while IFS= read -r line || [ -n "$line" ]; do printf ':%s\n' "$line"; done; }
seq() { local i; for ((i = $1; i <= ${3:-$1}; i += ${2:-1})); do echo "$i"; done; }
source() { :; }; set() { :; }; kill() { return 1; }; wait() { :; }; trap() { :; }; sleep() { :; }; cd() { :; }
vllm() { command_not_found_handle vllm "$@"; }
while read -r ISL OSL TP EP_SIZE DP_ATTENTION CONC; do
  printf '=%s\n' "$ISL $OSL $TP $EP_SIZE $DP_ATTENTION $CONC"
  ( eval "$SCRIPT" ) < /dev/null
done <<< "$CASES"
"""
GIVEN = {
    "MODEL": "model",
    "PORT": "8888",
    "PORT_OFFSET": "0",
    "MAX_MODEL_LEN": "10240",
    "RESULT_FILENAME": "result",
    "RANDOM_RANGE_RATIO": "0.8",
    "NUM_GPUS": "8",
}

Case = tuple[str, ...]  # isl, osl, tp, ep, attention_dp
Commands = dict[Case, dict[int, str]]  # by case, by clients


@dataclass(frozen=True)
class Clone:
    """A git directory, which is only read."""

    directory: str

    def git(self, *words: str) -> str:
        """Return what git prints."""
        done = subprocess.run(["git", "-C", self.directory, *words], capture_output=True, text=True, check=False)
        return done.stdout if done.returncode == 0 else ""


def main() -> None:
    """Write the table."""
    clone = Clone(sys.argv[1])
    table: dict[tuple[str, ...], list[list[str]]] = defaultdict(list)
    found = history(clone)
    blobs = sorted({blob for versions in found.values() for *_, blob in versions})
    with ThreadPoolExecutor(2) as workers:
        texts = (clone.git("cat-file", "blob", blob) for blob in blobs)
        tables = dict(zip(blobs, workers.map(lambda text: reduced(commands(text)), texts), strict=True))
    for name, versions in sorted(found.items()):
        for since, until, revision, blob in versions:
            for line in tables[blob]:
                seen = table[(name, *line)]
                if seen and seen[-1][1] == since:
                    seen[-1][1] = until
                else:
                    seen.append([since, until, revision[:7]])
    with TARGET.open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(["script", *DIMENSIONS, "concurrency", "options", "since", "until", "commit"])
        for key, days in sorted(table.items(), key=_order):
            for seen in days:
                out.writerow([*key, *seen])


def _order(item: tuple[tuple[str, ...], Any]) -> tuple[Any, ...]:
    key, days = item
    return (key[0], days[0][0], key[1:6], int(key[6] or 0), key[7])


def history(clone: Clone) -> dict[str, list[tuple[str, str, str, str]]]:
    """Return, of each script by what it runs, since when, until when (empty: still), at which commit, and its blob."""
    found: dict[str, list[tuple[str, str, str, str]]] = defaultdict(list)
    before: dict[str, str] = {}
    words = ("log", "--first-parent", "--reverse", "--format=%H %cI", "HEAD", "--", "benchmarks")
    for line in clone.git(*words).splitlines():
        revision, moment = line.split()
        day = max(datetime.fromisoformat(moment).astimezone(UTC).date().isoformat(), SINCE)
        if day > UNTIL:
            break
        now = scripts(clone, revision)
        for name in before.keys() | now.keys():
            if before.get(name) == now.get(name):
                continue
            if found[name] and not found[name][-1][1]:
                found[name][-1] = (found[name][-1][0], day, *found[name][-1][2:])
            if name in now:
                found[name].append((day, "", revision, now[name]))
        before = now
    return {name: [seen for seen in versions if seen[1] != seen[0]] for name, versions in found.items()}


def scripts(clone: Clone, revision: str) -> dict[str, str]:
    """Return the blobs of a revision's scripts by what they run; of two launchers Slurm's."""
    found: dict[str, str] = {}
    for line in clone.git("ls-tree", "-r", revision, "benchmarks").splitlines():
        blob, path = line.split()[2:]
        if told := SCRIPT.fullmatch(path):
            words = told.groupdict(default="")
            engine = words["engine"] or ("_sglang" if words["model"] in SGLANG else "_vllm")
            name = "-".join((words["model"], words["precision"].removeprefix("nv"), words["accelerator"]))
            name += (engine + words["drafts"]).replace("_", "-")
            if words["launcher"] != "_docker" or name not in found:
                found[name] = blob
    return found


def commands(text: str) -> Commands:
    """Return what a script starts, by what it is given."""
    cases = [(*lengths, *spread, str(clients)) for lengths, spread, clients in product(LENGTHS, spreads(text), CLIENTS)]
    found: Commands = defaultdict(dict)
    for part in run(text, cases).split("\n=")[0:]:
        head, *said = part.removeprefix("=").splitlines() or [""]
        *case, clients = head.split() or ["0"]
        if len(case) == len(DIMENSIONS) and (command := told_by(said)):
            found[tuple(case)][int(clients)] = command
    return found


def spreads(text: str) -> list[tuple[str, str, str]]:
    """Return the spreads that can make a difference: those a script does more with than pass them on."""
    passed = re.sub(r"--[\w.-]+[= ]\"?\$\{?(?:TP|EP_SIZE)\b|^\s*echo .*", "", text, flags=re.MULTILINE)
    asked = {name: f"${name}" in passed or f"${{{name}" in passed or f"({name}" in passed for name in GIVEN_SPREAD}
    wide = "1248" if asked["TP"] or asked["EP_SIZE"] else "8"
    return [
        (tp, ep, on)
        for tp in wide
        for ep in (sorted({"1", tp}) if asked["EP_SIZE"] else "1")
        for on in (("false", "true") if asked["DP_ATTENTION"] else ("false",))
    ]


def run(text: str, cases: list[tuple[str, ...]]) -> str:
    """Return what the shell says."""
    given = {
        **GIVEN,
        "PATH": "/nowhere",
        "SCRIPT": harmless(text),
        "CASES": "\n".join(" ".join(case) for case in cases),
    }
    done = subprocess.run(
        ["/bin/bash", "--norc", "-r", "-c", SHELL], env=given, capture_output=True, text=True, check=False, timeout=300
    )
    return "\n" + done.stdout


def harmless(text: str) -> str:
    """Return a script without what it writes to files, which a restricted shell refuses."""
    target = r"(?:&\d|\"[^\"]*\"|'[^']*'|[^\s|;&)]+)"
    found = []
    for line in text.splitlines():
        bare = line if "[[" in line else re.sub(rf"(?<=\s)(?:\d?>>?|&>>?)\s*{target}", "", line)
        found.append(re.sub(r"(?<!&)&\s*$", "", bare))  # nothing in the background: what is said stays in order
    return "\n".join(found)


def told_by(said: list[str]) -> str:
    """Return the server's command of what a run said, with the configuration it wrote."""
    started = [line[1:].split("\x1f") for line in said if line.startswith("@")]
    server = next((words for words in started if is_server(words)), None)
    if server is None:
        return ""
    written = "\n".join(line[1:] for line in said if line.startswith(":"))
    options = flat(loaded(written)) | arguments(server)
    options |= {after: options[name] for name, after in RENAMED.items() if name in options}
    return " ".join(f"--{name}={_plain(options[name])}" for name in KEPT if options.get(name, "0") != "0")


def _plain(value: str) -> str:
    """Write a fraction one way: 0.90 is 0.9."""
    return value.rstrip("0") if re.fullmatch(r"0\.\d+", value) else value


def is_server(words: list[str]) -> bool:
    """Whether a command starts a server."""
    line = " ".join(words)
    return any(name in line for name in ("trtllm-serve", "sglang.launch_server", "sglang serve", "vllm serve"))


def loaded(text: str) -> dict[str, Any]:
    """Return the configuration written; nothing where it is none."""
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError:
        return {}
    return found if isinstance(found, dict) else {}


def flat(words: dict[str, Any], under: str = "") -> dict[str, str]:
    """Return a configuration's settings by dotted name."""
    found: dict[str, str] = {}
    for key, value in words.items():
        name = f"{under}{key}".replace("_", "-")
        if isinstance(value, dict):
            found |= flat(value, f"{name}.")
        else:
            found[name] = str(value).lower() if isinstance(value, bool) else str(value).replace(" ", "")
    return found


def arguments(words: list[str]) -> dict[str, str]:
    """Return a command's options; a switch is `true`."""
    found: dict[str, str] = {}
    for word, after in zip(words, [*words[1:], "--"], strict=True):
        if word.startswith("--"):
            name, given, value = word[2:].partition("=")
            value = value if given else "true" if after.startswith("--") else after
            found[name.replace("_", "-")] = value.replace(" ", "")
    return found


# --- the conditions that matter -----------------------------------------------------------------------


def reduced(found: Commands) -> list[tuple[str, ...]]:
    """Return lines (the case, the least concurrency, the command), with what makes no difference left empty."""
    found = {case: with_clients(by) for case, by in found.items()}
    for place in range(len(DIMENSIONS)):
        found = without(found, place)
    return [(*case, str(least) if least else "", command) for case, by in found.items() for least, command in steps(by)]


def with_clients(by: dict[int, str]) -> dict[int, str]:
    """Write a number that always is that of the clients as `conc`."""
    names = {word.partition("=")[0] for command in by.values() for word in command.split()}
    follows = {name for name in names if len(by) > 1 and all(f"{name}={n}" in text.split() for n, text in by.items())}
    return {
        n: " ".join(
            f"{name}=conc" if name in follows else f"{name}={value}"
            for name, _, value in (word.partition("=") for word in text.split())
        )
        for n, text in by.items()
    }


def without(found: Commands, place: int) -> Commands:
    """Leave a condition out where it makes no difference."""
    joined: Commands = defaultdict(dict)
    for case, by in found.items():
        rest = (*case[:place], "", *case[place + 1 :])
        for clients, command in by.items():
            if joined[rest].setdefault(clients, command) != command:
                return found
    return joined


def steps(by: dict[int, str]) -> list[tuple[int, str]]:
    """Return each command with the least concurrency it is for; 0: any."""
    found: list[tuple[int, str]] = []
    for clients in sorted(by):
        if not found or found[-1][1] != by[clients]:
            found.append((clients if found else 0, by[clients]))
    return found


if __name__ == "__main__":
    main()
