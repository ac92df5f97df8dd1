"""How Sphinx builds the documentation (`make docs`): every warning is an error, and nothing is downloaded."""

from __future__ import annotations

import sys
from pathlib import Path

import effbench

sys.path.insert(0, str(Path(__file__).parent))  # for from_code

project = "effbench"
author = "the effbench contributors"
version = release = effbench.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton", "from_code"]
exclude_patterns = ["examples", "__pycache__"]
nitpicky = True  # a reference without a target is a warning, and so an error
nitpick_ignore_regex = [
    # Types of other packages and aliases of types: there is no page to link to, and none is downloaded.
    (r"py:.*", r"(torch|nn|np|numpy|pd|pandas|pathlib|collections|typing|argparse)\..*"),
    (
        r"py:class",
        r"Tensor|DataFrame|Path|Integers|Batch|MakeMechanism|Option|Dtype|Progress|Any|optional",
    ),
    # Classes that a signature names and that an extension has no use for.
    (r"py:class", r"(effbench\..*\.)?(WordRecipe|Problem|Search|SourceTargets|Forced|Watch)"),
]

myst_heading_anchors = 4  # links such as method.md#accuracy, as a code host makes them
myst_enable_extensions = ["attrs_block"]

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
default_role = "code"
highlight_language = "text"  # a block without a language is no Python
python_maximum_signature_line_length = 88

html_theme = "furo"
html_title = f"effbench {version}"
html_static_path = ["style"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
copybutton_prompt_text = r"\$ "
copybutton_prompt_is_regexp = True
