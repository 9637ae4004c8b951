"""Reduces InferenceX's lists of what it runs to the recipes validation looks rows up in.

    git clone https://github.com/SemiAnalysisAI/InferenceX && python tools/derive_recipes.py InferenceX

A dump of its results does not say how attention was spread, how many prefill and decode workers ran, or whether drafts
were verified; the list of that day does, by the concurrency it was run at. Every version of the list up to the last day
asked for is read, equal entries are joined, and one line is written for each.
"""

from __future__ import annotations

import argparse
import csv
import re
import subprocess
from pathlib import Path
from typing import Any

import yaml

LISTS = (".github/configs/nvidia-master.yaml", "configs/nvidia-master.yaml")
TARGET = Path(__file__).parents[1] / "src/headway/validation/data/recipes.csv"
COLUMNS = ("model", "precision", "accelerator", "engine", "isl", "osl", "concurrency", "drafts", "prefill", "decode")
#: of a GB200 or GB300
GPUS_PER_NODE = 4
#: two entries of the list that name their model otherwise
MODELS = {"DeepSeek-R1-0528": "dsr1", "dsr1-fp8": "dsr1"}


def git(repository: str, *words: str) -> str:
    """Run git there and return what it prints; empty where it fails."""
    done = subprocess.run(["git", "-C", repository, *words], capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else ""


def entries(repository: str, until: str) -> dict[tuple[Any, ...], list[str]]:
    """Return each recipe with the first and the last day it was listed."""
    found: dict[tuple[Any, ...], list[str]] = {}
    seen: set[str] = set()
    for line in git(repository, "log", "--reverse", "--format=%h %as", "--", *LISTS).splitlines():
        commit, day = line.split()
        blobs = {git(repository, "rev-parse", f"{commit}:{path}").strip() for path in LISTS} - seen - {""}
        seen |= blobs
        for blob in blobs if day <= until else ():
            for recipe in recipes(yaml.load(git(repository, "cat-file", "-p", blob), Loader=yaml.CSafeLoader)):
                found.setdefault(recipe, [day, day])[1] = day
    return found


def recipes(lists: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Return all recipes of one version of the list, one for each concurrency."""
    found = []
    for entry in lists.values():
        scenarios = entry.get("seq-len-configs") or (entry.get("scenarios") or {}).get("fixed-seq-len") or []
        for scenario in scenarios:
            for space in scenario.get("search-space", []):
                found += [(*head(entry, scenario), clients, *spread(space)) for clients in concurrencies(space)]
    return found


def head(entry: dict[str, Any], scenario: dict[str, Any]) -> tuple[Any, ...]:
    """Return model, precision, accelerator, engine and lengths."""
    model, runner = entry["model-prefix"], re.match(r"[a-z]+\d+[a-z]*", entry["runner"])
    assert runner
    precision = {"nvfp4": "fp4"}.get(entry["precision"], entry["precision"])
    engine = entry["framework"].removeprefix("dynamo-")
    return MODELS.get(model, model), precision, runner[0], engine, scenario["isl"], scenario["osl"]


def concurrencies(space: dict[str, Any]) -> list[int]:
    """Return the concurrencies of one entry: a list, or doubled from the first to the last."""
    if "conc-list" in space:
        return list(space["conc-list"])
    found, clients = [], space["conc-start"]
    while clients < space["conc-end"]:
        found.append(clients)
        clients *= 2
    return [*found, space["conc-end"]]


def spread(space: dict[str, Any]) -> tuple[str, str, str]:
    """Return drafts per step, and prefill and decode as workers:gpus:ep:attention-dp."""
    if "decode" not in space:
        return drafts(space), "", workers(space)
    prefill, decode = space["prefill"], space["decode"]
    if not prefill.get("num-worker", 1) or not decode.get("num-worker", 1):  # both done by the one there is
        return drafts(space), "", workers(decode if decode.get("num-worker", 1) else prefill)
    return drafts(space), workers(prefill), workers(decode)


def workers(part: dict[str, Any]) -> str:
    """Write one pool down; where the list leaves tp to a script, by the nodes of four GPUs it names."""
    count, gpus, ep = part.get("num-worker", 1), part["tp"], part.get("ep", 1)
    if gpus == 1 and count and (nodes := re.search(r"_NODES=(\d+)", str(part))):
        gpus = ep = int(nodes[1]) * GPUS_PER_NODE // count
    return f"{count}:{gpus}:{ep}:{int(bool(part.get('dp-attn')))}"


def drafts(space: dict[str, Any]) -> str:
    """Return how many drafts a step verifies; three where only their kind is named."""
    if space.get("spec-decoding", "none") == "none":
        return "0"
    stated = re.search(r"MTP_SIZE=(\d)|mtp(\d)", str(space.get("decode")) + str(space.get("prefill")))
    return (stated[1] or stated[2]) if stated else "3"


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("repository")
    parser.add_argument("--until", default="2026-05-31", help="the last day of the dump the recipes are for")
    asked = parser.parse_args()
    joined: dict[tuple[Any, ...], list[Any]] = {}
    for recipe, (since, until) in entries(asked.repository, asked.until).items():
        line = joined.setdefault((*recipe[:6], *recipe[7:]), [[], since, until])
        line[0].append(recipe[6])
        line[1:] = [min(line[1], since), max(line[2], until)]
    with TARGET.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow((*COLUMNS, "since", "until"))
        for key, (clients, since, until) in sorted(joined.items(), key=str):
            table.writerow((*key[:6], " ".join(map(str, sorted(set(clients)))), *key[6:], since, until))


if __name__ == "__main__":
    main()
