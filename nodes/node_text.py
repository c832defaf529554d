"""What a node shows on itself."""

import logging
from collections.abc import Sequence
from typing import Any

from comfy_api.latest import io
from server import PromptServer

logger = logging.getLogger(__name__)

# Of a schema: the node shows something on itself. Older hosts show it without being told.
SHOWS_OUTPUT: dict[str, Any] = {}
if "has_intermediate_output" in io.Schema.__dataclass_fields__:
    SHOWS_OUTPUT["has_intermediate_output"] = True

# Ids of the nodes that show a warning: the front end keeps a text until it gets another.
_warned: set[str] = set()


def show_text(text: str, unique_id: str | None) -> None:
    """Show a text on a node (its id, None outside a prompt)."""
    if unique_id:
        PromptServer.instance.send_progress_text(text, unique_id)


def show_warnings(name: str, unique_id: str | None, warnings: Sequence[str]) -> None:
    """Log warnings of the node `name` and show them on it; without any, take back earlier ones."""
    for warning in warnings:
        logger.warning("%s: %s", name, warning)
    if unique_id is None or not (warnings or unique_id in _warned):
        return
    if warnings:
        _warned.add(unique_id)
    else:
        _warned.discard(unique_id)
    show_text("\n".join(warnings) or "No warnings.", unique_id)
