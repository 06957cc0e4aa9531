"""The documentation site: the pages of the repository where they are, and the API's docstrings.

The source folder is the root of the repository, so a link from page to page is the same file on
the site and on the host of the code. Nothing is fetched, while building or while reading.
"""

from pathlib import Path

from rectify import __version__

project = "rectify"
copyright = "the rectify authors, MIT"
release = __version__
root_doc = "docs/site/index"
include_patterns = [
    "*.md",
    "docs/*.md",
    "docs/**/*.md",
    "rectify/tasks/*/README.md",
    *(f"{folder}/README.md" for folder in ("config", "envs", "results")),
]
exclude_patterns = [path.name for path in Path(__file__).parents[2].glob(".*") if path.is_dir()]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 3
autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # fields of a named tuple are members already

html_theme = "furo"
html_title = "rectify"
html_additional_pages = {"index": "first.html"}
templates_path = ["templates"]
html_show_sourcelink = False
