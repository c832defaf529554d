"""A real ComfyUI server with this pack and the micro family's loader, in a folder of its own."""

import io
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlencode

import websocket
from comfy_cli.workflow_to_api import convert_ui_to_api
from PIL import Image

from lab import ROOT
from lab.microworld import LOADER_PACK

TEXT = 3  # ComfyUI's number of a binary message that is a node's text
# So that nothing hangs for ever, however busy the machine is.
START_SECONDS, RUN_SECONDS = 1200, 3600


class PromptError(Exception):
    """The server refused a prompt, or a node failed; `details` is what it answered."""

    def __init__(self, message: str, details: Any) -> None:
        super().__init__(message)
        self.details = details


class Server:
    """Use as a context manager: the server runs inside, and is stopped whatever happens.

    Args:
        host: ComfyUI's folder.
        base: folder for its models, inputs and outputs; created if it doesn't exist.
        arguments: more command line arguments of ComfyUI.
        pack: name of this pack's folder.
    """

    def __init__(
        self, host: Path, base: Path, arguments: tuple[str, ...] = (), pack: str = "ms_diffusion"
    ) -> None:
        self.host, self.base, self.arguments, self.pack = host, base, arguments, pack
        self.log = base / "server.log"
        self.client = uuid.uuid4().hex
        self.texts: dict[str, str] = {}  # by node id, of the last run

    def __enter__(self) -> "Server":
        packs = self.base / "custom_nodes"
        for folder in ("custom_nodes", "input", "models", "output", "temp", "user"):
            (self.base / folder).mkdir(parents=True, exist_ok=True)
        for name, target in ((self.pack, ROOT), ("micro", LOADER_PACK)):
            if not (packs / name).exists():
                (packs / name).symlink_to(target, target_is_directory=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        # Without our PYTHONPATH: the server must find everything by itself, as a user's does.
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, str(self.host / "main.py")),
                    *("--base-directory", str(self.base), "--port", str(self.port)),
                    *("--database-url", "sqlite:///:memory:"),
                    *("--cpu", "--disable-auto-launch", "--disable-api-nodes"),
                    *self.arguments,
                ],
                cwd=self.host,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=environment,
            )
        try:
            self._wait_until_up()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()

    def get(self, path: str, **query: str) -> bytes:
        address = f"http://127.0.0.1:{self.port}{path}"
        with urllib.request.urlopen(
            f"{address}?{urlencode(query)}" if query else address
        ) as answer:
            return answer.read()

    def get_json(self, path: str) -> Any:
        return json.loads(self.get(path))

    def post(self, path: str, body: Any = None) -> bytes:
        """Raises PromptError: the server refused what was posted."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            json.dumps(body or {}).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            details = json.loads(error.read())
            raise PromptError(f"The server refused the prompt: {details}", details) from error

    def workflow(self, path: Path) -> dict[str, Any]:
        """A workflow file in API form."""
        saved = json.loads(path.read_text(encoding="utf-8"))
        prompt = convert_ui_to_api(saved, self.get_json("/object_info"))
        for node in saved["nodes"]:
            if node["type"] == "MSDLayout":  # the converter knows no widget types of packs
                values = zip(("width", "height", "layout"), node["widgets_values"], strict=True)
                prompt[str(node["id"])]["inputs"] |= dict(values)
        return prompt

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
        listener = websocket.create_connection(
            f"ws://127.0.0.1:{self.port}/ws?clientId={self.client}", timeout=RUN_SECONDS
        )
        try:
            body = {"prompt": prompt, "client_id": self.client}
            prompt_id = json.loads(self.post("/prompt", body))["prompt_id"]
            while True:
                try:
                    message = listener.recv()
                except (websocket.WebSocketException, OSError) as error:
                    raise RuntimeError(f"ComfyUI went away:\n{self._log_end()}") from error
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
                    raise PromptError(
                        f"{data['node_type']}: {data['exception_message'].strip()}", data
                    )
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
        content = self.get("/view", **outputs[node]["images"][0])
        return Image.open(io.BytesIO(content)).convert("RGB")

    def _wait_until_up(self) -> None:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise RuntimeError(f"ComfyUI stopped while starting:\n{self._log_end()}")
            try:
                self.get("/system_stats")
                return
            except OSError:
                time.sleep(0.2)
        raise RuntimeError(f"ComfyUI didn't start in {START_SECONDS} s:\n{self._log_end()}")

    def _log_end(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])
