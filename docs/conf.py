"""Configuration of Sphinx, https://www.sphinx-doc.org/en/master/usage/configuration.html."""

import os
import shutil
import warnings
from importlib.metadata import metadata
from pathlib import Path

from scdiffusion import SCDiffusion

# Set on the documentation server. Elsewhere nothing is fetched, so that the build works without a network.
ONLINE = os.environ.get("SCDIFFUSION_DOCS_ONLINE") == "1"

# It warns of Sphinx's future once per docstring.
warnings.filterwarnings("ignore", module="sphinx_autodoc_typehints")

# -- Project -------------------------------------------------------------------------------------

info = metadata("scdiffusion")
project = info["Name"]
author = info["Author"]
copyright = f"2026, {author}"
version = release = info["Version"]
repository_url = "https://github.com/scdiffusion/scdiffusion"

# Notebooks live beside src/ and docs/, and are read from here.
HERE = Path(__file__).parent
shutil.rmtree(HERE / "tutorials", ignore_errors=True)
shutil.copytree(HERE.parent / "tutorials", HERE / "tutorials")

# -- Sources -------------------------------------------------------------------------------------

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_autodoc_typehints",  # after napoleon
    "sphinx_copybutton",
    "sphinx_design",
    "sphinxcontrib.bibtex",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "**.ipynb_checkpoints"]
default_role = "literal"
nitpicky = ONLINE  # names of other projects resolve only where their inventories can be fetched
suppress_warnings = [
    "sphinx_autodoc_typehints.forward_reference",  # annotations of dependencies
    "sphinx_autodoc_typehints.guarded_import",
]

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # notebooks are stored executed
nb_merge_streams = True

autosummary_generate = True
# The model is put together from mixins, which have no pages: their methods are listed with its own.
own_parts = [part for part in SCDiffusion.__mro__ if part.__module__.startswith("scdiffusion")]
autosummary_context = {"parts_of_model": sorted({name for part in own_parts for name in vars(part)})}
autodoc_member_order = "bysource"
napoleon_google_docstring = False
napoleon_numpy_docstring = True
napoleon_use_ivar = True
napoleon_use_rtype = False  # docstrings describe what is returned, annotations give the type
typehints_defaults = "braces"
always_use_bars_union = True
toc_object_entries_show_parents = "hide"  # the contents of a page have room for `generate()` alone

bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "author_year"

if ONLINE:
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "anndata": ("https://anndata.readthedocs.io/en/stable/", None),
        "lightning": ("https://lightning.ai/docs/pytorch/stable/", None),
        "matplotlib": ("https://matplotlib.org/stable/", None),
        "mudata": ("https://mudata.readthedocs.io/stable/", None),
        "numpy": ("https://numpy.org/doc/stable/", None),
        "pandas": ("https://pandas.pydata.org/docs/", None),
        "python": ("https://docs.python.org/3/", None),
        "scanpy": ("https://scanpy.readthedocs.io/en/stable/", None),
        "scipy": ("https://docs.scipy.org/doc/scipy/", None),
        "scvi": ("https://docs.scvi-tools.org/en/stable/", None),
        "torch": ("https://docs.pytorch.org/docs/stable/", None),
    }

# -- Pages ---------------------------------------------------------------------------------------

html_theme = "sphinx_book_theme"
html_title = project
html_static_path = ["_static"]
html_theme_options = {
    "repository_url": repository_url,
    "use_repository_button": True,
    "path_to_docs": "docs/",
    "navigation_with_keys": False,
    "navbar_persistent": [],  # a second search field, above that of the sidebar
}
html_css_files = ["custom.css"]
html_context = {"default_mode": "light"}
