"""A ComfyUI that runs at an address."""

import io
import json
import struct
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import websocket
from PIL import Image

from lab.host.prompt_error import PromptError

TEXT = 3  # ComfyUI's number of a binary message that is a node's text
RUN_SECONDS = 3600  # so that nothing hangs for ever, however busy the machine is


class Client:
    """Sends prompts to it.

    Args:
        address: such as http://127.0.0.1:8188.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        self.client = uuid.uuid4().hex
        self.texts: dict[str, str] = {}  # by node id, of the last run

    @property
    def name(self) -> str:
        return self.address

    def get(self, path: str, **query: str) -> bytes:
        address = f"{self.address}{path}"
        with urllib.request.urlopen(
            f"{address}?{urlencode(query)}" if query else address
        ) as answer:
            return answer.read()

    def get_json(self, path: str) -> Any:
        return json.loads(self.get(path))

    def post(self, path: str, body: Any = None) -> bytes:
        """Raises PromptError: the server refused what was posted."""
        request = urllib.request.Request(
            f"{self.address}{path}",
            json.dumps(body or {}).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            details = json.loads(error.read())
            raise PromptError.refused(details) from error

    def run(
        self,
        prompt: dict[str, Any],
        on_progress: Callable[[str, int, int], None] | None = None,
        on_executing: Callable[[str], None] | None = None,
    ) -> dict[str, Any]:
        """Run a prompt in API form to its end.

        Args:
            on_progress: called with a node id, its step and its number of steps.
            on_executing: called with the id of each node that begins.
        Returns:
            What each node gave the user interface, by node id; the text that a node showed
            meanwhile is in `texts`.
        Raises:
            PromptError: the prompt was refused, a node failed, or the run was interrupted.
            RuntimeError: the server stopped.
        """
        self.texts.clear()
        socket = self.address.replace("http", "ws", 1)
        listener = websocket.create_connection(
            f"{socket}/ws?clientId={self.client}", timeout=RUN_SECONDS
        )
        try:
            body = {"prompt": prompt, "client_id": self.client}
            prompt_id = json.loads(self.post("/prompt", body))["prompt_id"]
            while True:
                try:
                    message = listener.recv()
                except (websocket.WebSocketException, OSError) as error:
                    raise RuntimeError(f"ComfyUI went away: {self._last_words()}") from error
                if not isinstance(message, str):
                    kind, length = struct.unpack(">II", message[:8])
                    if kind == TEXT:
                        node = message[8 : 8 + length].decode()
                        self.texts[node] = message[8 + length :].decode()
                    continue  # any other is a preview picture
                event = json.loads(message)
                data = event["data"]
                if data.get("prompt_id") != prompt_id:
                    continue
                if event["type"] == "progress" and on_progress:
                    on_progress(data["node"], data["value"], data["max"])
                elif event["type"] == "executing" and on_executing and data["node"]:
                    on_executing(data["node"])
                elif event["type"] == "execution_error":
                    raise PromptError.of_event(data)
                elif event["type"] == "execution_interrupted":
                    raise PromptError("The run was interrupted.", data)
                elif event["type"] == "execution_success":
                    break
        finally:
            listener.close()
        while prompt_id not in (history := self.get_json(f"/history/{prompt_id}")):
            time.sleep(0.02)  # it is written after the event
        return history[prompt_id]["outputs"]

    def picture(self, outputs: dict[str, Any], node: str) -> Image.Image:
        """The first picture that a node has given the user interface, RGB.

        Args:
            outputs: of `run`. node: its id.
        """
        return Image.open(io.BytesIO(self.view(outputs, node))).convert("RGB")

    def view(self, outputs: dict[str, Any], node: str) -> bytes:
        """The file of that picture."""
        return self.get("/view", **outputs[node]["images"][0])

    def upload(self, path: Path, name: str) -> None:
        """Put a picture among the server's inputs."""
        boundary = uuid.uuid4().hex
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="overwrite"\r\n\r\ntrue\r\n'
            f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        )
        request = urllib.request.Request(
            f"{self.address}/upload/image",
            head.encode() + path.read_bytes() + f"\r\n--{boundary}--\r\n".encode(),
            {"Content-Type": f"multipart/form-data; boundary={boundary}"},
        )
        urllib.request.urlopen(request).close()

    def free(self) -> None:
        """Let the server unload its models and forget its outputs."""
        self.post("/free", {"unload_models": True, "free_memory": True})

    def _last_words(self) -> str:
        return f"{self.address} doesn't answer."
