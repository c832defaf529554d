"""A real ComfyUI in this process, on the CPU, with this pack loaded as it loads any pack."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
HOST = Path(os.environ.get("COMFYUI_PATH", ROOT / ".host" / "ComfyUI")).resolve()

# The host must come first: this repository has a folder `nodes`, the host a module of that name.
sys.path.insert(0, str(HOST))
from comfy.cli_args import args  # noqa: E402

args.cpu = True  # before anything of the host looks for a GPU

import nodes as host_nodes  # noqa: E402

assert Path(host_nodes.__file__).parent == HOST


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The host's registry of node classes, with its own extra nodes and this pack's."""
    import folder_paths
    import server

    base = tmp_path_factory.mktemp("host")
    for folder in ("output", "temp", "input"):
        (base / folder).mkdir()
    folder_paths.set_output_directory(str(base / "output"))
    folder_paths.set_temp_directory(str(base / "temp"))
    folder_paths.set_input_directory(str(base / "input"))

    async def load() -> None:
        server.PromptServer(asyncio.get_running_loop())
        await host_nodes.init_builtin_extra_nodes()
        assert await host_nodes.load_custom_node(str(ROOT), module_parent="custom_nodes")

    asyncio.run(load())
    return host_nodes.NODE_CLASS_MAPPINGS


@pytest.fixture(scope="session")
def pack(registry: dict[str, Any]) -> Any:
    """This pack's node classes by id, and its modules by name, as the host loaded them."""
    return Pack(registry)


class Pack:
    def __init__(self, registry: dict[str, Any]) -> None:
        self._registry = registry

    def __getattr__(self, node_id: str) -> Any:
        return self._registry[node_id]

    def module(self, name: str) -> Any:
        """A module of the pack, for example "nodes.subjects"."""
        own = self._registry["MSDApply"].__module__.removesuffix(".nodes.apply")
        return sys.modules[f"{own}.{name}"]
