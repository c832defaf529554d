"""A ComfyUI that runs at an address."""

import io
import json
import struct
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import websocket
from PIL import Image

from lab.host.prompt_error import PromptError

TEXT = 3  # ComfyUI's number of a binary message that is a node's text
# So that nothing hangs for ever, however busy the machine is:
RUN_SECONDS = 3600  # without a word of a prompt that runs
ANSWER_SECONDS = 120  # for a connection, and for an answer to begin


class Client:
    """Sends prompts to it.

    All but `get` raise ConnectionError for what isn't an answer of a ComfyUI.

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
            f"{address}?{urlencode(query)}" if query else address, timeout=ANSWER_SECONDS
        ) as answer:
            return answer.read()

    def get_json(self, path: str) -> Any:
        with self._answering():
            return json.loads(self.get(path))

    def version(self) -> str:
        """Of its ComfyUI."""
        with self._answering():
            return str(json.loads(self.get("/system_stats"))["system"]["comfyui_version"])

    def post(self, path: str, body: Any = None) -> bytes:
        """Raises PromptError: the server refused what was posted."""
        with self._answering():
            request = urllib.request.Request(
                f"{self.address}{path}",
                json.dumps(body or {}).encode(),
                {"Content-Type": "application/json"},
            )
            try:
                with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:
                    return answer.read()
            except urllib.error.HTTPError as error:
                try:
                    details = json.loads(error.read())
                except ValueError:  # a page
                    raise error from None
                if not isinstance(details, dict):
                    raise
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
        with self._answering():
            listener = websocket.create_connection(
                f"{socket}/ws?clientId={self.client}", timeout=ANSWER_SECONDS
            )
        listener.settimeout(RUN_SECONDS)
        try:
            answer = self.post("/prompt", {"prompt": prompt, "client_id": self.client})
            with self._answering():
                prompt_id = json.loads(answer)["prompt_id"]
            while True:
                kind, data = self._next_event(listener)
                if data.get("prompt_id") != prompt_id:
                    continue
                if kind == "progress" and on_progress:
                    on_progress(data["node"], data["value"], data["max"])
                elif kind == "executing" and on_executing and data["node"]:
                    on_executing(data["node"])
                elif kind == "execution_error":
                    raise PromptError.of_event(data)
                elif kind == "execution_interrupted":
                    raise PromptError("The run was interrupted.", data)
                elif kind == "execution_success":
                    break
        finally:
            listener.close()
        with self._answering():
            end = time.monotonic() + ANSWER_SECONDS
            while prompt_id not in (history := json.loads(self.get(f"/history/{prompt_id}"))):
                if time.monotonic() > end:
                    raise TimeoutError("its history doesn't have the prompt that it has run")
                time.sleep(0.02)  # it is written after the event
            return history[prompt_id]["outputs"]

    def _next_event(self, listener: websocket.WebSocket) -> tuple[str, dict[str, Any]]:
        """Its type and data; a node's text that comes before it goes to `texts`.

        Raises RuntimeError: the server stopped.
        """
        while True:
            try:
                message = listener.recv()
            except (websocket.WebSocketException, OSError) as error:
                raise RuntimeError(f"ComfyUI went away: {self._last_words()}") from error
            if not message:  # it closed the connection
                raise RuntimeError(f"ComfyUI went away: {self._last_words()}")
            with self._answering():
                if isinstance(message, str):
                    event = json.loads(message)
                    return event["type"], dict(event["data"])
                kind, length = struct.unpack(">II", message[:8])
                if kind == TEXT:  # any other is a preview picture
                    node = message[8 : 8 + length].decode()
                    self.texts[node] = message[8 + length :].decode()

    def picture(self, outputs: dict[str, Any], node: str) -> Image.Image:
        """The first picture that a node has given the user interface, RGB.

        Args:
            outputs: of `run`. node: its id.
        """
        return Image.open(io.BytesIO(self.view(outputs, node))).convert("RGB")

    def view(self, outputs: dict[str, Any], node: str) -> bytes:
        """The file of that picture."""
        with self._answering():
            return self.get("/view", **outputs[node]["images"][0])

    def upload(self, path: Path, name: str) -> None:
        """Put a file among the server's inputs.

        Raises OSError: the file can't be read.
        """
        content = path.read_bytes()
        boundary = uuid.uuid4().hex
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="overwrite"\r\n\r\ntrue\r\n'
            f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        )
        with self._answering():
            request = urllib.request.Request(
                f"{self.address}/upload/image",
                head.encode() + content + f"\r\n--{boundary}--\r\n".encode(),
                {"Content-Type": f"multipart/form-data; boundary={boundary}"},
            )
            urllib.request.urlopen(request, timeout=ANSWER_SECONDS).close()

    def free(self) -> None:
        """Let the server unload its models and forget its outputs."""
        self.post("/free", {"unload_models": True, "free_memory": True})

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Let all that isn't an answer of a ComfyUI be one error that says so."""
        try:
            yield
        except (json.JSONDecodeError, LookupError, TypeError, struct.error) as error:
            raise ConnectionError(
                f"{self.address} isn't a ComfyUI that answers: it answers in another form."
            ) from error
        except (OSError, HTTPException, websocket.WebSocketException, ValueError) as error:
            # websocket adds headers and body to the first part
            words = " ".join(str(error).split(" -+-+- ")[0].split()) or type(error).__name__
            words = "".join(filter(str.isprintable, words))
            raise ConnectionError(
                f"{self.address} isn't a ComfyUI that answers: {words}"
            ) from error

    def _last_words(self) -> str:
        return f"{self.address} doesn't answer."
