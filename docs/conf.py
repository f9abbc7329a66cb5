"""The documentation site: `make docs` builds it into out/docs, with warnings as errors."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "build" / "dev" / "python"))
DOXYGEN_OUT = ROOT / "out" / "doxygen"

project = "BitLab"
author = "The BitLab authors"
version = release = os.environ.get("BITLAB_VERSION", "")
extensions = ["myst_parser", "breathe", "sphinx.ext.autodoc"]
autodoc_typehints = "signature"
source_suffix = {".md": "markdown"}
exclude_patterns = ["requirements.txt"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
# README, sources and the like are on the repository's side of a link.
# A function that a class declares and its namespace shows again is one declaration twice to Sphinx.
suppress_warnings = ["myst.xref_missing", "duplicate_declaration.cpp"]
html_theme = "furo"
html_title = "BitLab"
breathe_projects = {"BitLab": str(DOXYGEN_OUT / "xml")}
breathe_default_project = "BitLab"
breathe_domain_by_extension = {"h": "cpp"}
primary_domain = "cpp"
highlight_language = "text"


def run_doxygen(_app):
    DOXYGEN_OUT.mkdir(parents=True, exist_ok=True)
    subprocess.run(["doxygen", str(ROOT / "docs" / "Doxyfile")], cwd=ROOT, check=True)


def setup(app):
    app.connect("builder-inited", run_doxygen)
