"""Tables of facts, the shipped ones and the user's own."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import yaml

from headway.catalog import load
from headway.catalog.catalog import TABLES
from headway.catalog.facts import DATA
from headway.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

SOURCE = "sources:\n  mine: {title: my data sheet, as_of: 2026-01-02}\n"


def write(tmp_path: Path, text: str, name: str = "mine.yaml") -> str:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_the_catalogue_is_as_large_as_promised() -> None:
    catalog = load()
    assert len(catalog.accelerators) >= 24
    assert len(catalog.models) >= 60
    assert {engine.name for engine in catalog.engines} == {"vllm", "sglang", "tensorrt-llm", "tgi", "llama.cpp"}
    assert len(catalog.links) >= 20


@pytest.mark.parametrize("name", ["h100-sxm", "H100-SXM", "h100", " H100 "])
def test_an_accelerator_answers_to_its_names_in_any_case(name: str) -> None:
    assert load().accelerator(name).name == "h100-sxm"


def test_h100_is_as_its_data_sheet_says_without_sparsity() -> None:
    h100 = load().accelerator("h100-sxm")
    assert h100.peak_flops_per_s == {"bf16": 989e12, "fp8": 1979e12, "int8": 1979e12}
    assert h100.hbm_bytes_per_s == 3350e9
    assert h100.scale_up_bytes_per_s == 450e9  # one direction of 900 GB/s
    assert (h100.gpus_per_node, h100.scale_up_gpus, h100.board_power_w) == (8, 8, 700)
    assert 79 * 2**30 < h100.hbm_bytes < 80 * 2**30  # as the driver reports it


@pytest.mark.parametrize(
    ("accelerator", "gpus_per_node", "scale_up_gpus", "beyond_bytes_per_s"),
    [
        ("v100", 8, 8, 100e9 / 8 / 8),  # p3dn: 100 Gb/s for 8
        ("a100", 8, 8, 25e9),  # one 200 Gb/s port each
        ("h200", 8, 8, 50e9),  # one 400 Gb/s port each
        ("b300", 8, 8, 100e9),  # one 800 Gb/s port each
        ("gb200", 4, 72, 50e9),  # four 400 Gb/s ports for four GPUs of a tray
        ("l40s", 8, 1, 400e9 / 8 / 8),
        ("gaudi3", 8, 8, 3 * 200e9 / 8),
        ("trainium2", 16, 16, 3200e9 / 8 / 16),
    ],
)
def test_nodes_and_their_share_of_the_network(
    accelerator: str, gpus_per_node: int, scale_up_gpus: int, beyond_bytes_per_s: float
) -> None:
    found = load().accelerator(accelerator)
    assert (found.gpus_per_node, found.scale_up_gpus) == (gpus_per_node, scale_up_gpus)
    assert found.scale_out_bytes_per_s == beyond_bytes_per_s


@pytest.mark.parametrize(("generation", "giga_transfers_per_s"), [(3, 8), (4, 16), (5, 32)])
def test_pcie_is_lanes_times_rate_times_encoding(generation: int, giga_transfers_per_s: int) -> None:
    exact = 16 * giga_transfers_per_s * 1e9 * 128 / 130 / 8
    assert load().link(f"pcie{generation}-x16").bytes_per_s == pytest.approx(exact, rel=1e-3)


def test_a_link_named_by_an_accelerator_lends_figure_and_provenance() -> None:
    catalog = load()
    h100, link = catalog.accelerator("h100"), catalog.link("nvlink4")
    assert h100.scale_up_bytes_per_s == link.bytes_per_s
    assert h100.provenance["scale_up_bytes_per_s"] == link.provenance["bytes_per_s"]


def test_models_answer_to_full_names_aliases_and_last_parts() -> None:
    catalog = load()
    full, alias = "meta-llama/Llama-3.1-70B-Instruct", "meta-llama/Meta-Llama-3.1-70B"
    assert {catalog.model(name).name for name in (full, full.lower(), "llama-3.1-70b-instruct")} == {full}
    assert catalog.model(alias.upper()) == replace(catalog.model(full), name=alias)


@pytest.mark.parametrize(
    ("kind", "typo", "meant"),
    [
        ("accelerator", "h10-sxm", "h100-sxm"),
        ("model", "llama-3.1-70b-instrct", "instruct"),
        ("link", "nvlnk4", "nvlink4"),
    ],
)
def test_a_typo_is_answered_with_the_nearest_name(kind: str, typo: str, meant: str) -> None:
    with pytest.raises(InputError, match=f"unknown {kind} '{typo}'.*{meant}"):
        getattr(load(), kind)(typo)


def test_a_user_overrides_one_figure_and_keeps_the_rest(tmp_path: Path) -> None:
    file = write(tmp_path, SOURCE + "accelerators:\n  h100-sxm: {source: mine, hbm_bytes: 75 GiB}\n")
    shipped, mine = load().accelerator("h100"), load(file).accelerator("h100")
    assert mine.hbm_bytes == 75 * 2**30
    assert mine.provenance["hbm_bytes"].source == "my data sheet"
    assert mine.provenance["hbm_bytes"].unit == "GiB"
    assert mine.hbm_bytes_per_s == shipped.hbm_bytes_per_s
    assert mine.provenance["hbm_bytes_per_s"] == shipped.provenance["hbm_bytes_per_s"]


def test_a_later_file_goes_over_an_earlier_one(tmp_path: Path) -> None:
    head = SOURCE + "accelerators:\n  h100-sxm: {source: mine, hbm_bytes: "
    files = [write(tmp_path, f"{head}{size} GiB}}\n", f"{size}.yaml") for size in (70, 60)]
    assert load(*files).accelerator("h100").hbm_bytes == 60 * 2**30


def test_a_user_adds_an_accelerator_like_another(tmp_path: Path) -> None:
    file = write(
        tmp_path, SOURCE + "accelerators:\n  h100-mine: {like: h100-sxm, source: mine, board_power_w: 500 W}\n"
    )
    mine = load(file).accelerator("h100-mine")
    assert mine.board_power_w == 500
    assert mine.hbm_bytes == load().accelerator("h100").hbm_bytes
    assert load(file).accelerator("h100").name == "h100-sxm"  # aliases stay where they were


def test_a_user_overrides_one_word_of_a_models_config(tmp_path: Path) -> None:
    file = write(
        tmp_path, SOURCE + "models:\n  Qwen/Qwen3-8B: {source: mine, config: {max_position_embeddings: 131072}}\n"
    )
    model = load(file).model("qwen3-8b")
    assert model.max_position_embeddings == 131072
    assert model.provenance["max_position_embeddings"].source == "my data sheet"
    assert model.params == load().model("qwen3-8b").params


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            "accelerators:\n  x: {source: mine, hbm: 1 GB}",
            r"line 4, accelerators\.x\.hbm: unknown key 'hbm'.*hbm_bytes",
        ),
        ("accelerators:\n  h100-sxm: {hbm_bytes: 1 GB}", "this figure has no source"),
        (
            "accelerators:\n  h100-sxm: {source: mime, hbm_bytes: 1 GB}",
            "there is no source 'mime'.*did you mean 'mine'",
        ),
        ("accelerators:\n  h100-sxm: {source: mine, hbm_bytes: 80}", "'80' has no unit"),
        ("accelerators:\n  h100-sxm: {source: mine, hbm_bytes: 0 GB}", "not above zero"),
        ("accelerators:\n  h100-sxm: {source: mine, hbm_bytes: 10 W}", "unknown unit 'W'"),
        ("accelerators:\n  x: {source: mine, vendor: nvidia}", "'x' has no 'hbm_bytes'"),
        ("accelerators:\n  x: {like: h100}", "no entry 'h100' to be like.*did you mean 'h100-"),
        (
            "accelerators:\n  h100-sxm: {source: mine, scale_up_bytes_per_s: nvlink44}",
            "neither a quantity nor a link.*nvlink4",
        ),
        (
            "accelerators:\n  h100-sxm: {source: mine, peak_flops_per_s: {fp7: 1 TFLOP/s}}",
            "unknown compute format 'fp7'",
        ),
        ("accelerators:\n  x: {like: h100-sxm, aliases: [A100]}", "the alias 'A100' belongs to"),
        ("models:\n  mine: {source: mine, config: {hidden_size: 8}}", "'num_hidden_layers'.* is missing"),
        ("models:\n  mine: {source: mine, aliases: [m]}", "'mine' has no 'config'.*config.json"),
        (
            "models:\n  Qwen/Qwen3-8B: {source: mine, config: {hidden_size: !odd 8}}",
            "hidden_size: expected plain values",
        ),
        (
            (
                "accelerators:\n  x: {source: mine, vendor: nvidia, hbm_bytes: 1 GB, hbm_bytes_per_s: 1 GB/s, "
                "peak_flops_per_s: {fp8: 1 TFLOP/s}}"
            ),
            "'x' has no 'peak_flops_per_s.bf16'.*dense peak",
        ),
        ("gpus: {}", "unknown key 'gpus'"),
        ("models: 3", "expected a mapping"),
    ],
)
def test_what_is_wrong_in_a_users_file_is_said_with_its_place(tmp_path: Path, body: str, said: str) -> None:
    file = write(tmp_path, f"{SOURCE}{body}\n")
    with pytest.raises(InputError, match=said) as caught:
        load(file)
    assert file in str(caught.value)


def test_a_source_needs_a_date(tmp_path: Path) -> None:
    file = write(tmp_path, "sources: {mine: {title: x}}\naccelerators: {h100-sxm: {source: mine, hbm_bytes: 1 GB}}\n")
    with pytest.raises(InputError, match="the source 'mine' has no 'as_of'"):
        load(file)


def test_a_file_without_sources_can_name_none(tmp_path: Path) -> None:
    file = write(tmp_path, "accelerators: {h100-sxm: {source: hgx, hbm_bytes: 1 GB}}\n")
    with pytest.raises(InputError, match="there is no source 'hgx'"):
        load(file)


@pytest.mark.parametrize("kind", sorted(TABLES))
def test_every_figure_of_every_entry_says_source_and_day(kind: str) -> None:
    for entry in load().entries(kind).values():
        for name, where in entry.provenance().items():
            assert where.source, f"{entry.name}.{name}"
            assert dt.date(2023, 1, 1) <= dt.date.fromisoformat(where.as_of), f"{entry.name}.{name}"


def test_figures_whose_source_nobody_re_read_say_so_and_grow_no_more() -> None:
    catalog = load()
    all_of = [
        figure for kind in TABLES for entry in catalog.entries(kind).values() for figure in entry.figures.values()
    ]
    titles = [figure.provenance.source for figure in all_of]
    assert not [title for title in titles if "general knowledge" in title]
    assert sum(title.startswith("no source re-read") for title in titles) <= 28  # lower it when one is found


@pytest.mark.parametrize("file", ["accelerators", "engines", "links", "models"])
def test_every_source_of_a_shipped_file_is_the_source_of_something(file: str) -> None:
    tables = yaml.safe_load((DATA / f"{file}.yaml").read_text(encoding="utf-8"))
    cited = {figure.provenance.source for entry in load().entries(file).values() for figure in entry.figures.values()}
    assert not {source["title"] for source in tables["sources"].values()} - cited


@pytest.mark.parametrize("kind", ["accelerators", "models", "links"])
def test_every_number_of_a_noun_has_provenance(kind: str) -> None:
    optional = {"aliases", "title", "name", "provenance"}
    for noun in getattr(load(), kind):
        for field in noun.__dataclass_fields__:
            value = getattr(noun, field)
            if field in optional or not isinstance(value, (int, float)):
                continue
            assert field in noun.provenance, f"{noun.name}.{field}"


def test_peaks_are_dense() -> None:
    # 8-bit doubles 16-bit, 4-bit doubles 8-bit (Blackwell Ultra triples it, GeForce quadruples it)
    for accelerator in load().accelerators:
        peaks = accelerator.peak_flops_per_s
        assert peaks.get("fp8", 0) <= 2.03 * peaks["bf16"], accelerator.name
        assert peaks.get("fp4", 0) <= 4.01 * peaks.get("fp8", peaks["bf16"]), accelerator.name


def test_shipped_units_are_those_of_the_csv_they_came_from(hardware_rows: list[dict[str, str]]) -> None:
    catalog = load()
    for row in hardware_rows:
        if row["trust"] == "low" or row["key"] in {"A800-80-SXM", "TPU-v4"}:  # no source for their links
            continue
        mine = catalog.accelerator(row["key"])
        assert mine.hbm_bytes_per_s == pytest.approx(1e9 * float(row["mem_bw_GBps"]), rel=0.045), mine.name
        if row["bf16_tflops_dense"]:
            assert mine.peak_flops_per_s["bf16"] == pytest.approx(1e12 * float(row["bf16_tflops_dense"]), rel=0.01)


@pytest.fixture
def hardware_rows(shared_csv: object) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = shared_csv("catalog/hardware.csv")  # type: ignore[operator]
    return rows


@pytest.fixture
def shared_csv() -> object:
    import csv
    from pathlib import Path

    def read(name: str) -> list[dict[str, str]]:
        path = Path(__file__).parents[2].parent / "shared" / name
        if not path.is_file():
            pytest.skip(f"needs ../shared/{name}")
        return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))

    return read
