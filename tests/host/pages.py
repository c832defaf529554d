"""Pages of docs/ that tests write from what they find."""

import os

from conftest import ROOT


def check_page(name: str, head: str, rows: list[str]) -> None:
    """Write a page (UPDATE_DOCS=1), or check that it has each of the rows."""
    page = ROOT / "docs" / name
    if os.environ.get("UPDATE_DOCS"):
        page.write_text(head + "\n".join(rows) + "\n", encoding="utf-8")
    lines = page.read_text(encoding="utf-8").splitlines()
    assert [row for row in rows if row not in lines] == [], "run with UPDATE_DOCS=1"
