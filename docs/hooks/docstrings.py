# ruff: noqa: INP001
"""Shows what reStructuredText in docstrings means: mkdocstrings takes them for Markdown."""

from __future__ import annotations

import re
from typing import Any

_ROLE = re.compile(r":(?:attr|class|data|exc|func|meth|mod|obj):<code>~?(?:ome_writers\.)?([^<]*)</code>")


def on_page_content(html: str, **_: Any) -> str:
    """Show names in roles, such as ``:func:`recover```, as code, and end paragraphs before code with one colon.

    Called by MkDocs for each page.
    """
    return _ROLE.sub(r"<code>\1</code>", html).replace("::</p>", ":</p>")
