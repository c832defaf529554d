"""What a ComfyUI says of a prompt that it can't run."""

from typing import Any


class PromptError(Exception):
    """The prompt was refused, or a node failed; `details` is what the host answered."""

    def __init__(self, message: str, details: Any) -> None:
        super().__init__(message)
        self.details = details

    @classmethod
    def refused(cls, answer: dict[str, Any]) -> "PromptError":
        """Of what the host answers to a prompt that it doesn't run."""
        reasons = [
            f"{node['class_type']}: {error['message']}: {error['details']}"
            for node in (answer.get("node_errors") or {}).values()
            for error in node["errors"]
        ]
        said = "; ".join(reasons) or answer.get("error")
        if isinstance(said, dict):  # of the whole prompt, such as a node that isn't there
            said = f"{said.get('message')} {said.get('details') or ''}".strip()
        return cls(f"The host refused the prompt: {said}", answer)

    @classmethod
    def of_event(cls, event: dict[str, Any]) -> "PromptError":
        """Of the host's event execution_error."""
        return cls(f"{event['node_type']}: {event['exception_message'].strip()}", event)
