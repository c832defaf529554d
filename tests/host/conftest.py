"""A real ComfyUI in this process, on the CPU, with this pack loaded as it loads any pack."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from golden import Golden, recipe

UNETS = Golden("d_unet")
ROOT = Path(__file__).parents[2]
HOST = Path(os.environ.get("COMFYUI_PATH", ROOT / ".host" / "ComfyUI")).resolve()

# The host must come first: this repository has a folder `nodes`, the host a module of that name.
sys.path.insert(0, str(HOST))
from comfy.cli_args import args  # noqa: E402

args.cpu = True  # before anything of the host looks for a GPU

# As the host's main.py: older hosts' nodes.py puts comfy/ before it, which has a utils.py too.
import utils.extra_config  # noqa: E402, F401  # isort: skip
import nodes as host_nodes  # noqa: E402

assert Path(host_nodes.__file__).parent == HOST

from lab.host.server import Server  # noqa: E402
from lab.microworld.sprites import save_sprites  # noqa: E402


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


@pytest.fixture(scope="session")
def unets() -> dict[str, Any]:
    """The two tiny UNets of golden set d, as MODELs."""
    from models import build_sdxl, fill_from_recipe

    built = {}
    for name, depth in (("tiny", (1, 2)), ("topo70", (2, 10))):
        built[name] = build_sdxl(depth)
        fill_from_recipe(built[name], UNETS.seed, UNETS.manifest["unet_param_prefix"][name])
    return built


@pytest.fixture(scope="session")
def adapters(pack: Any, unets: dict[str, Any], tmp_path_factory: Any) -> dict[str, Any]:
    """The adapter of each UNet, from a file, through the loader node."""
    import folder_paths
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("ms_diffusion")
    folder_paths.add_model_folder_path("ms_diffusion", str(folder))
    cross_attentions = pack.module("msd_core.models.unet").cross_attentions
    loaded = {}
    for name, unet in unets.items():
        prefix = UNETS.manifest["ms_param_prefix"][name]
        keys = {k: row["shape"] for k, row in UNETS.manifest["ms_params_tiny"].items()
                if k.startswith("image_proj.")}  # fmt: skip
        shapes = {k: v.shape for k, v in unet.model.diffusion_model.state_dict().items()}
        for attention in cross_attentions(shapes):
            for kind in ("to_k_ip", "to_v_ip"):
                keys[f"ms_adapter.{attention.key_index}.{kind}.weight"] = [attention.width, 64]
        keys["dummy_image_tokens"] = [1, 4, 64]
        sd = {
            k: torch.from_numpy(recipe.param(UNETS.seed, prefix + k, shape))
            for k, shape in keys.items()
        }
        save_file(sd, folder / f"{name}.safetensors")
        loaded[name] = pack.MSDLoadAdapter.execute(f"{name}.safetensors")[0]
    return loaded


@pytest.fixture
def plain(unets: dict[str, Any]) -> Any:
    return unets["tiny"]


@pytest.fixture(scope="session")
def other_families(pack: Any, unets: dict[str, Any], tmp_path_factory: Any) -> dict[str, Any]:
    """An adapter of each other family for the UNet "tiny", from a file, through the loader node."""
    from golden_mip import load_adapters

    given = pack, {"sdxl": unets["tiny"]}
    return {
        "IP-Adapter": load_adapters(*given, tmp_path_factory.mktemp("ip"))["sdxl_plus"],
        "MIP-Adapter": load_adapters(*given, tmp_path_factory.mktemp("mip"), True)["sdxl_plus"],
    }


@pytest.fixture
def family() -> str:
    """The adapter's; tests that hold for several parametrize it."""
    return "MS-Diffusion"


@pytest.fixture
def adapter(adapters: dict[str, Any], family: str, request: pytest.FixtureRequest) -> Any:
    if family == "MS-Diffusion":
        return adapters["tiny"]
    found = request.getfixturevalue("other_families")[family]
    assert found.model.name == family
    return found


@pytest.fixture
def subjects(pack: Any, family: str) -> Callable[..., Any]:
    """Subjects with random image tokens: make(box, ...) or make((box, weight, region), ...)."""
    import torch
    from sampling import noise

    kinds = pack.module("nodes.subjects")
    acts_on_all, has_names = family != "MS-Diffusion", family == "MIP-Adapter"

    def make(*specs: Any, auto: Any = None, prompt_tokens: Any = (), order: Any = None) -> Any:
        built = []
        for n, spec in enumerate(specs):
            box, weight, region = spec if isinstance(spec[0], tuple) else (spec, 1.0, None)
            built.append(
                kinds.Subject(
                    phrase=f"subject {n}",
                    box=box,
                    weight=weight,
                    references=torch.zeros(1, 8, 8, 3),
                    region=region,
                    image_tokens=noise(100 + n, 1, 16, 64),
                    blank_image_tokens=noise(90, 16, 64) if acts_on_all else None,
                    name_tokens=noise(200 + n, 2, 64) if has_names else None,
                    token_positions=prompt_tokens[n] if prompt_tokens else (),
                )
            )
        if order:
            built = [built[n] for n in order]
        settings = kinds.AutoLayoutSettings(*auto) if auto else None
        return kinds.Subjects(tuple(built), settings)

    return make


@pytest.fixture
def apply(pack: Any, adapter: Any) -> Callable[..., Any]:
    def patched(model: Any, subjects: Any, weight: float = 0.6, **options: Any) -> Any:
        return pack.MSDApply.execute(model, adapter, subjects, weight, **options)[0]

    return patched


@pytest.fixture
def lay_out(pack: Any) -> Callable[..., Any]:
    """Run MSDLayout: lay_out(layout value, references..., **more inputs)."""

    def run(value: Any, *images: Any, width: int = 64, height: int = 32, **more: Any) -> Any:
        references = {f"reference_{n}": image for n, image in enumerate(images, 1)}
        return pack.MSDLayout.execute(references, width, height, layout=value, **more)

    return run


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The host's SDXL CLIP with a CLIP-L as wide as golden set d's phrases."""
    import torch
    from models import build_clip
    from safetensors.torch import save_file

    config = {"hidden_size": 40, "num_attention_heads": 4, "intermediate_size": 40,
              "num_hidden_layers": 3}  # fmt: skip
    embeddings = tmp_path_factory.mktemp("embeddings")
    two = {"clip_l": torch.ones(2, 768), "clip_g": torch.ones(2, 1280)}
    save_file(two, embeddings / "two.safetensors")
    built = build_clip(config, str(embeddings))
    with torch.no_grad():
        for number, parameter in enumerate(built.cond_stage_model.parameters()):
            if parameter.ndim:
                generator = torch.Generator().manual_seed(number)
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return built


@pytest.fixture(scope="session")
def models() -> Callable[[str], Any]:
    import reference_models

    built: dict[str, Any] = {}

    def model(name: str) -> Any:
        if name not in built:
            built[name] = reference_models.build(name)
        return built[name]

    return model


@pytest.fixture
def place(pack: Any) -> Callable[..., Any]:
    """MSD Place References on a model: place(model, box, ...) or (box, weight, region)."""
    import torch

    kinds = pack.module("nodes.subjects")

    def placed(model: Any, *given: Any, counts: Any = None, size: Any = None, **more: Any) -> Any:
        subjects = []
        for n, of_subject in enumerate(given):
            nested = isinstance(of_subject[0], tuple)
            box, weight, region = of_subject if nested else (of_subject, 1.0, None)
            references = torch.zeros(counts[n] if counts else 1, 8, 8, 3)
            subjects.append(kinds.Subject(f"thing {n}", box, weight, references, region=region))
        return pack.MSDPlaceReferences.execute(
            model, kinds.Subjects(tuple(subjects), size=size), **more
        )[0]

    return placed


@pytest.fixture
def attentions(pack: Any, monkeypatch: Any) -> list[Any]:
    """The joint attentions of what is sampled from now on."""
    from placed import Attention

    module = pack.module("nodes.sampling.joint_attention")
    right, found, orders, masks = module.attend_placed, [], [], {}
    right_sequence = module.PlacedCall.sequence

    def sequence(call: Any, queries: int, keys: int) -> Any:
        orders.append(right_sequence(call, queries, keys))
        return orders[-1]

    def attend(call: Any, previous: Any, function: Any, q: Any, k: Any, v: Any, heads: int,
               *args: Any, **kwargs: Any) -> Any:  # fmt: skip
        out = right(call, previous, function, q, k, v, heads, *args, **kwargs)
        if orders[-1] is not None:
            own = {**kwargs, "heads": heads}
            found.append(Attention(call, orders[-1], (q, k, v), own, out, masks))
        return out

    monkeypatch.setattr(module.PlacedCall, "sequence", sequence)
    patch = pack.module("nodes.sampling.placed_references")
    monkeypatch.setattr(patch, "attend_placed", attend)
    return found


@pytest.fixture
def flux(models: Any) -> Any:
    return models("flux")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A ComfyUI in a process of its own: the random micro family, a tiny Flux and the sprites."""
    from reference_models import save_files

    base = tmp_path_factory.mktemp("server")
    # Its loader package changes the host that it is loaded into, so not in this process.
    subprocess.run(
        [sys.executable, "-m", "lab.microworld.files", str(base / "models")],
        check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": f"{HOST}{os.pathsep}{ROOT}"},
    )  # fmt: skip
    save_files(base / "models")
    save_sprites(base / "input")
    with Server(HOST, base) as running:
        yield running


@pytest.fixture
def prompt(server: Server) -> dict[str, Any]:
    from prompts import load

    return load(server, ROOT / "example_workflows" / "MS-Diffusion, two subjects.json")


@pytest.fixture(scope="module")
def evaluation(registry: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The micro world's `Evaluation` in this host, which has its nodes meanwhile."""
    from measured import Evaluation

    from lab.microworld import pack as own

    registry.update(own.NODE_CLASS_MAPPINGS)
    yield Evaluation(registry, tmp_path_factory.mktemp("evaluation"))
    for name in own.NODE_CLASS_MAPPINGS:
        del registry[name]
