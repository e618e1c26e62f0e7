"""The documentation of kinds of sources is what the tests replay."""

from __future__ import annotations

import source_kinds


def test_the_table_is_that_of_the_tests() -> None:
    """``docs/replay.md`` lists each kind of source that is tested, and no other."""
    page = source_kinds.PAGE.read_text(encoding="utf-8")
    assert page == source_kinds.with_table(page), "write the table anew: python tests/source_kinds.py"
    assert page.count(source_kinds.BEGIN) == page.count(source_kinds.END) == 1
