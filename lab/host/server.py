"""A real ComfyUI server with this pack and the micro family's loader, in a folder of its own."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from comfy_cli.workflow_to_api import convert_ui_to_api

from lab import ROOT
from lab.host.client import Client
from lab.host.prompt_error import PromptError as PromptError
from lab.microworld import LOADER_PACK

START_SECONDS = 1200  # so that nothing hangs for ever, however busy the machine is


class Server(Client):
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
        super().__init__("http://127.0.0.1")

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
        self.address = f"http://127.0.0.1:{self.port}"
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

    def workflow(self, path: Path) -> dict[str, Any]:
        """A workflow file in API form."""
        saved = json.loads(path.read_text(encoding="utf-8"))
        prompt = convert_ui_to_api(saved, self.get_json("/object_info"))
        for node in saved["nodes"]:
            inputs = prompt.get(str(node["id"]), {}).get("inputs", {})
            for entry in node.get("inputs", []):
                if entry.get("link") is None and "widget" not in entry:
                    inputs.pop(entry["name"], None)  # the converter fills in a default
            if node["type"] == "MSDLayout":  # the converter knows no widget types of packs
                values = zip(("width", "height", "layout"), node["widgets_values"], strict=True)
                inputs |= {k: v for k, v in values if not isinstance(inputs.get(k), list)}
        return prompt

    def _wait_until_up(self) -> None:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise RuntimeError(f"ComfyUI stopped while starting:\n{self._last_words()}")
            try:
                self.get("/system_stats")
                return
            except OSError:
                time.sleep(0.2)
        raise RuntimeError(f"ComfyUI didn't start in {START_SECONDS} s:\n{self._last_words()}")

    def _last_words(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])
