"""Warnings that a node shows on itself as well as in the log."""

import logging
from collections.abc import Sequence

from server import PromptServer

# Ids of the nodes that show one: the front end keeps a text until another one comes.
_warned: set[str] = set()


def show_warnings(name: str, unique_id: str | None, warnings: Sequence[str]) -> None:
    """Log warnings of the node `name` and show them on it; without any, take back earlier ones."""
    for warning in warnings:
        logging.warning("%s: %s", name, warning)
    if unique_id is None or not (warnings or unique_id in _warned):
        return
    if warnings:
        _warned.add(unique_id)
    else:
        _warned.discard(unique_id)
    PromptServer.instance.send_progress_text("\n".join(warnings) or "No warnings.", unique_id)
