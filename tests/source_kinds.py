"""The table of kinds of sources in ``docs/replay.md``, made from what the tests replay.

``python tests/source_kinds.py`` writes it.
"""

from __future__ import annotations

from pathlib import Path

import recorded_tiff
import recorded_zarr

PAGE = Path(__file__).parents[1] / "docs" / "replay.md"
BEGIN, END = "<!-- kinds: begin -->\n", "<!-- kinds: end -->\n"


def table() -> str:
    """Return the table: a row for the forms of a kind of source, all made, replayed and compared by the tests."""
    forms: dict[tuple[str, str, str], list[str]] = {}
    kinds: list[recorded_tiff.Kind | recorded_zarr.Kind] = [*recorded_tiff.KINDS]
    for kind in (*kinds, *sorted(recorded_zarr.KINDS, key=lambda kind: kind.kind)):
        forms.setdefault((kind.kind, kind.writer, kind.carries), []).append(kind.variant)
    rows = ["| kind | forms | made in the tests by | what carries over beside the pixels |", "|---|---|---|---|"]
    before = None
    for (kind_name, writer, carries), variants in forms.items():
        cells = (kind_name if kind_name != before else "", "; ".join(variants), writer, carries)
        rows.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
        before = kind_name
    return "\n".join(["", *rows, "", ""])


def with_table(page: str) -> str:
    """Return the text of the page with the table in its place."""
    head, _, rest = page.partition(BEGIN)
    return head + BEGIN + table() + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
