"""Builds an `Accelerator` from the figures of its entry, and a `Link` from its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headway.errors import nearest
from headway.types import Accelerator, Link

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headway.catalog.facts import Entry
    from headway.reading import Node
    from headway.types import Provenance

VENDORS = ("nvidia", "amd", "intel", "google", "aws", "apple", "huawei", "cpu")
#: compute formats a peak can be stated for; `bf16` stands for any 16-bit format
COMPUTE_FORMATS = ("bf16", "fp8", "int8", "fp4")
LINK_FIELDS = ("title", "bytes_per_s", "latency_s")
FIELDS = (
    "title",
    "aliases",
    "vendor",
    "compute_capability",
    "hbm_bytes",
    "hbm_bytes_per_s",
    "peak_flops_per_s",
    "gpus_per_node",
    "scale_up_gpus",
    "scale_up_bytes_per_s",
    "scale_out_bytes_per_s",
    "board_power_w",
)
GROUPS = ("peak_flops_per_s",)


def build_link(entry: Entry) -> Link:
    """Build the noun.

    Raises:
        InputError: a figure is missing or of the wrong dimension.
    """
    latency = entry.get("latency_s")
    return Link(
        name=entry.name,
        title=entry.text("title", entry.name),
        bytes_per_s=_positive(entry.need("bytes_per_s"), "bytes_per_s"),
        latency_s=latency.quantity("time") if latency else None,
        provenance=entry.provenance(),
    )


def build_accelerator(entry: Entry, links: Mapping[str, Link]) -> Accelerator:
    """Build the noun; a link bandwidth is a quantity or the name of a link.

    Raises:
        InputError: a figure is missing, of the wrong dimension, or names an unknown link.
    """
    power = entry.get("board_power_w")
    provenance = entry.provenance()
    return Accelerator(
        name=entry.name,
        title=entry.text("title", entry.name),
        vendor=entry.need("vendor").choice(VENDORS),
        hbm_bytes=_positive(entry.need("hbm_bytes"), "bytes"),
        hbm_bytes_per_s=_positive(entry.need("hbm_bytes_per_s"), "bytes_per_s"),
        peak_flops_per_s=_peaks(entry),
        scale_up_gpus=entry.need("scale_up_gpus").integer(least=1),
        scale_up_bytes_per_s=_link("scale_up_bytes_per_s", entry, links, provenance),
        scale_out_bytes_per_s=_link("scale_out_bytes_per_s", entry, links, provenance),
        gpus_per_node=entry.need("gpus_per_node").integer(least=1),
        board_power_w=_positive(power, "power") if power else None,
        compute_capability=entry.text("compute_capability"),
        aliases=entry.words("aliases"),
        provenance=provenance,
    )


def _peaks(entry: Entry) -> dict[str, float]:
    peaks = entry.group("peak_flops_per_s")
    if "bf16" not in peaks:
        entry.node.fail(f"{entry.name!r} has no 'peak_flops_per_s.bf16'", "the dense peak of 16-bit matrix products")
    for name, node in peaks.items():
        if name not in COMPUTE_FORMATS:
            node.fail(f"unknown compute format {name!r}", f"known: {', '.join(COMPUTE_FORMATS)}")
    return {name: _positive(node, "flops_per_s") for name, node in peaks.items()}


def _link(field: str, entry: Entry, links: Mapping[str, Link], provenance: dict[str, Provenance]) -> float:
    """Return the bandwidth; where it is a link's, so is the provenance."""
    node = entry.need(field)
    link = links.get(node.text())
    if link is None:
        if node.text()[:1].isalpha():
            node.fail(f"{node.text()!r} is neither a quantity nor a link", nearest(node.text(), links))
        return _positive(node, "bytes_per_s")
    provenance[field] = link.provenance["bytes_per_s"]
    return link.bytes_per_s


def _positive(node: Node, dimension: str) -> float:
    value = node.quantity(dimension)
    return value if value > 0 else node.fail(f"{node.text()!r} is not above zero")
