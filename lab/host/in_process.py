"""A real ComfyUI in this process, with this pack and the micro family's loader, loaded as any pack
is: the quickest way to many pictures. `COMFYUI_PATH` names its folder."""

import asyncio
import atexit
import gc
import importlib
import shutil
import sys
import tempfile
import uuid
from collections.abc import Coroutine
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch

from lab import ROOT
from lab.host import host_folder
from lab.host.prompt_error import PromptError
from lab.microworld import LOADER_PACK


@cache
def load_host() -> dict[str, Any]:
    """The host's node classes by id, the pack's among them. Files go to a temporary folder."""
    sys.path.insert(0, str(host_folder()))  # before this repository's folder `nodes`
    from comfy.cli_args import args

    args.cpu = not torch.cuda.is_available()
    import folder_paths
    import server

    base = tempfile.mkdtemp(prefix="ms-diffusion-")
    atexit.register(shutil.rmtree, base, ignore_errors=True)
    for setter in (
        folder_paths.set_output_directory,
        folder_paths.set_temp_directory,
        folder_paths.set_input_directory,
    ):
        setter(base)

    host_nodes: Any = importlib.import_module("nodes")

    async def load() -> None:
        server.PromptServer(asyncio.get_running_loop())
        await host_nodes.init_builtin_extra_nodes()
        for pack in (ROOT, LOADER_PACK):
            if not await host_nodes.load_custom_node(str(pack), module_parent="custom_nodes"):
                raise RuntimeError(f"The host could not load {pack.name}.")

    asyncio.run(load())
    import comfy.utils

    comfy.utils.PROGRESS_BAR_ENABLED = False
    return host_nodes.NODE_CLASS_MAPPINGS


def pack_module(nodes: dict[str, Any], name: str) -> Any:
    """A module of the pack's, as the host loaded it."""
    own = nodes["MSDApply"].__module__.removesuffix(".nodes.apply")
    return sys.modules[f"{own}.{name}"]


def run_node(nodes: dict[str, Any], name: str, *args: Any, **inputs: Any) -> Any:
    """A node's outputs, by whichever of the host's two interfaces it has."""
    kind = nodes[name]
    if hasattr(kind, "define_schema"):
        output = kind.execute(*args, **inputs)
    else:
        output = getattr(kind(), kind.FUNCTION)(*args, **inputs)
    return getattr(output, "result", output)


class InProcess:
    """Runs prompts in API form in this process, by the host's own executor: models and other
    outputs stay between prompts that have them in common, as on a server.

    Args:
        models: folder laid out as the host's models folder, which comes before that one.
    """

    def __init__(self, models: Path) -> None:
        load_host()
        import execution
        import folder_paths
        from server import PromptServer

        for folder in models.iterdir():
            if folder.is_dir():
                folder_paths.add_model_folder_path(folder.name, str(folder), is_default=True)
        device = "CPU"
        if torch.cuda.is_available():
            device = torch.cuda.get_device_name()
        self.name = f"in process, PyTorch {torch.__version__}, {device}"
        self.loop = asyncio.new_event_loop()
        self.server: Any = PromptServer.instance
        self.server.loop = self.loop  # that of `load_host` is closed
        classic: Any = execution.CacheType.CLASSIC  # the host's signature says bool
        self.executor = execution.PromptExecutor(
            self.server,
            cache_type=classic,
            cache_args={"lru": 0, "ram": 0.0, "ram_inactive": 0.0},
        )

    def upload(self, path: Path, name: str) -> None:
        """Put a picture among the host's inputs."""
        import folder_paths

        shutil.copyfile(path, Path(folder_paths.get_input_directory(), name))

    def run(self, prompt: dict[str, Any]) -> dict[str, Any]:
        """Run a prompt to its end; returns what each node gave the user interface, by node id.

        Raises PromptError: the prompt was refused, or a node failed.
        """
        import execution

        name = uuid.uuid4().hex
        validated = self._wait_for(execution.validate_prompt(name, prompt, None))
        _, error, outputs, node_errors = validated
        if error or node_errors:
            details = {"error": error, "node_errors": node_errors}
            raise PromptError.refused(details)
        self._wait_for(self.executor.execute_async(prompt, name, {}, outputs))
        while not self.server.messages.empty():  # what nodes said, to nobody
            self.server.messages.get_nowait()
        event, data = self.executor.status_messages[-1]
        if event != "execution_success":
            raise PromptError.of_event(data)
        return self.executor.history_result["outputs"]

    def _wait_for(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Its result. Where Ctrl-C ends the waiting, it's ended too, since a task that is left
        pending can crash the process when that ends."""
        task = self.loop.create_task(coroutine)
        try:
            return self.loop.run_until_complete(task)
        finally:
            if not task.done():
                task.cancel()
                with suppress(asyncio.CancelledError):
                    self.loop.run_until_complete(task)
            elif not task.cancelled():
                task.exception()  # seen, so that asyncio doesn't print it

    def view(self, outputs: dict[str, Any], node: str) -> bytes:
        """The file of the first picture that a node has given the user interface, which is then
        removed."""
        import folder_paths

        shown = outputs[node]["images"][0]
        folder = folder_paths.get_directory_by_type(shown["type"])
        path = Path(str(folder), shown["subfolder"], shown["filename"])
        content = path.read_bytes()
        path.unlink()
        return content

    def free(self) -> None:
        """Unload all models, and forget all outputs."""
        import comfy.model_management

        self.executor.reset()
        comfy.model_management.unload_all_models()
        gc.collect()
        comfy.model_management.soft_empty_cache()
