"""Sphinx configuration; warnings are fatal in CI."""

from __future__ import annotations

import sys
from pathlib import Path

import headway

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "headway"
author = "the headway authors"
copyright = "the headway authors, Apache-2.0"  # noqa: A001 - Sphinx reads this name
release = version = headway.__version__

extensions = [
    "headway_tables",
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["_build"]
autodoc_typehints = "description"
autodoc_member_order = "bysource"
html_theme = "furo"
html_title = f"headway {release}"
html_static_path: list[str] = []
nitpicky = False
