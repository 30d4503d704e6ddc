"""Sphinx configuration; the configuration reference and the command reference are written from the code at each build."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import generate

from hpc_holstein import __version__

project = "hpc_holstein"
copyright = "the authors of hpc_holstein"
release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
myst_enable_extensions = ["dollarmath", "amsmath", "deflist"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_class_signature = "separated"
html_theme = "furo"
html_title = f"hpc_holstein {release}"
exclude_patterns = ["_build"]
nitpicky = False

generate.write(Path(__file__).parent / "reference")
