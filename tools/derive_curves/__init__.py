"""Derives the shipped efficiency curves from published tables of timed kernels.

    pip download aiconfigurator-core==0.12.0 --no-deps && unzip -d DIR aiconfigurator_core-0.12.0-*.whl
    python -m tools.derive_curves FAMILY… DIR        of gemm, collectives, attention, experts

The wheel (NVIDIA, Apache-2.0) holds tables that its authors timed kernel by kernel on real accelerators, under
`aiconfigurator_core/systems/data`. They are read at build time alone; what ships is their reduction, in
`src/headway/perf/data/curves`, the same bytes every time. End-to-end samples in that wheel are never read: they
overlap with what predictions are scored on.
"""
