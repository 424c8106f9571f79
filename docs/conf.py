"""Settings of the documentation site; `make docs` builds it, runs the tutorials, and needs no network."""

import importlib.metadata
import re
from pathlib import Path

from sphinx.application import Sphinx

project = "stochcon"
author = "the stochcon developers"
release = importlib.metadata.version("stochcon")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["figures"]
suppress_warnings = ["ref.python"]  # two classes of different modules may share a name
default_role = "code"  # a word in `single backticks` of a docstring is code

myst_heading_anchors = 4

nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_in_temp = True  # the tutorials write their files where nobody keeps them
nb_execution_timeout = 300
nb_merge_streams = True
nb_output_stderr = "remove"  # hints of other libraries; an error still stops the build

autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_default_options = {"exclude-members": "model_config"}
python_maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

html_theme = "furo"
html_title = "stochcon"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_copyright = False
html_show_sourcelink = False
html_copy_source = False

COMMAND_LINE = {"cli", "pretrain_verb"}  # its functions are those of reference/api
ROOMS = Path(__file__).parents[1] / "src" / "stochcon"
MODULE = """
## {name}

```{{eval-rst}}
.. automodule:: {module}
   :members:
```
"""


def add_modules(app: Sphinx, page: str, source: list[str]) -> None:
    """Put the modules of a room below the introduction in `reference/ROOM.md`, so that no list goes stale."""
    folder, _, room = page.rpartition("/")
    if folder != "reference" or room == "api":
        return
    for path in sorted((ROOMS / room if room != "foundations" else ROOMS).glob("[!_]*.py")):
        if path.stem not in COMMAND_LINE:
            parts = path.relative_to(ROOMS.parent).with_suffix("").parts
            source[0] += MODULE.format(name=path.stem, module=".".join(parts))


def escape(app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]) -> None:
    """Keep the bars of q(z|x) and the last letter of `object_` in docstrings, which are markup otherwise."""
    if lines and lines[0].startswith("Alias for field number"):  # of a named tuple, by Python
        lines.clear()
    for i, line in enumerate(lines):
        if ">>>" not in line:
            lines[i] = re.sub(r"(`[^`]*`)|(\||(?<=\w)_(?!\w))", lambda m: m[1] or f"\\{m[2]}", line)


def setup(app: Sphinx) -> None:
    """Connect both; Sphinx calls this when it reads the settings."""
    app.connect("source-read", add_modules)
    app.connect("autodoc-process-docstring", escape)
