"""`python -m tools.derive_curves FAMILY… DIR`: rewrites the curves of these families from the wheel unpacked in DIR."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from tools.derive_curves.tables import ORIGIN, OUT

from headway.perf.curves import write_curves

FAMILIES = ("attention", "collectives", "experts", "gemm")


def main() -> None:
    """Derive and write; each family's module has `curves(root)`: curves by name, by operator (one file each)."""
    *families, directory = sys.argv[1:]
    for family in families:
        if family not in FAMILIES:
            sys.exit(f"unknown family {family!r}: one of {', '.join(FAMILIES)}")
        module = importlib.import_module(f"tools.derive_curves.{family}")
        for operator, curves in module.curves(Path(directory)).items():
            write_curves(OUT / f"{operator}.json", curves, ORIGIN)
            for name, curve in sorted(curves.items()):
                error = f"{curve.error_median_frac:.1%} / {curve.error_p90_frac:.1%}"
                print(f"{name:48} {curve.rows:7} rows, error median / p90 {error}")


if __name__ == "__main__":
    main()
