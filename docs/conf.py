"""The site: every page of this folder is executed while it is built, and an error in a cell fails the build."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

import prunus

HERE = Path(__file__).parent

project = "prunus"
author = "The prunus authors"
version = release = prunus.__version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]
nitpicky = True
# Types of other packages have no pages here, and most words in single backticks are arguments.
nitpick_ignore_regex = [
    ("py:class", r"(torch|nn|numpy|collections|pathlib)\..*|Path|ExampleInputs|.*\.T"),
    ("py:obj", r".*"),
]

default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autosummary_generate = False
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Source", "notes_style")]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# Commands in cells find this environment's prunus, and each page writes its files into a folder of its own.
START = HERE / "_build/ipython/profile_default/startup"
START.mkdir(parents=True, exist_ok=True)
shutil.copy(HERE / "_shell.py", START)
os.environ["IPYTHONDIR"] = str(START.parent.parent)
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 240
nb_merge_streams = True
nb_output_stderr = "remove-warn"
nb_ipywidgets_js: dict[str, dict[str, str]] = {}  # else each page would load scripts from elsewhere

html_theme = "pydata_sphinx_theme"
html_title = f"prunus {version}"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_copy_source = html_show_sphinx = False
html_theme_options = {
    "header_links_before_dropdown": 7,
    "navbar_persistent": ["search-button"],
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "footer_start": ["copyright"],
    "footer_end": [],
}
# Pages without pages below them need no list of these.
html_sidebars: dict[str, list[str]] = {page: [] for page in ("getting-started", "migration", "changelog")}


class MagicCells(SphinxTransform):
    """Show cells of commands, and of files, without the line that tells IPython what they are."""

    default_priority = 210

    def apply(self, **kwargs: object) -> None:
        """Replace the code of such cells."""
        for block in list(self.document.findall(nodes.literal_block)):
            magic, _, text = block.astext().partition("\n")
            if magic == "%%sh":
                block.replace_self(nodes.literal_block(text, text, language="bash"))
            elif magic.startswith("%%writefile "):
                name = magic.removeprefix("%%writefile ")
                language = {".yaml": "yaml", ".py": "python", ".c": "c"}[Path(name).suffix]
                text = f"/* {name} */\n{text}" if language == "c" else f"# {name}\n{text}"
                block.replace_self(nodes.literal_block(text, text, language=language))


def suffixes_stay_whole(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Keep the dot of `.prunus` in a docstring, which the default role would drop."""
    lines[:] = [re.sub(r"(?<!`)`(\.\w+)`(?!`)", r"``\1``", line) for line in lines]


def setup(app: Sphinx) -> None:
    """Enter what this file adds to Sphinx."""
    app.connect("autodoc-process-docstring", suffixes_stay_whole)
    app.add_transform(MagicCells)
