"""Pages of docs/ that are made of what tests find."""

import os

from conftest import ROOT


def keep_page(name: str, head: str, rows: list[str]) -> None:
    """Write a page (UPDATE_DOCS=1), or see that it says each of the rows."""
    page = ROOT / "docs" / name
    if os.environ.get("UPDATE_DOCS"):
        page.write_text(head + "\n".join(rows) + "\n", encoding="utf-8")
    said = page.read_text(encoding="utf-8").splitlines()
    assert [row for row in rows if row not in said] == [], "run with UPDATE_DOCS=1"
