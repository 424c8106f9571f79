"""Settings of the documentation site; `make docs` builds it, runs the tutorials, and needs no network."""

from importlib.metadata import version

project = "stochcon"
author = "the stochcon developers"
release = version("stochcon")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["figures"]
default_role = "code"  # a word in `single backticks` of a docstring is code

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 4

nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_in_temp = True  # the tutorials write their files where nobody keeps them
nb_execution_timeout = 300
nb_merge_streams = True

autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
python_maximum_signature_line_length = 88
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = "stochcon"
html_show_sourcelink = False
html_copy_source = False
