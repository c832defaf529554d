"""Training of an adapter on a set, in the host's own model code."""

import gc
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.samplers
import pytest
import torch
from drawn_set import save_drawn_set
from PIL import Image, ImageChops, ImageOps
from safetensors.torch import load_file

from lab import ROOT
from lab.microworld import MODELS, networks
from lab.microworld.files import save
from lab.microworld.scenes import to_pil
from lab.training.__main__ import parse
from lab.training.real.batches import draw_batch
from lab.training.real.cache import Cache, MakeEncodingWorker
from lab.training.real.encoders import Encoders, bucket, fit_picture, picture_size
from lab.training.real.frozen import Frozen
from lab.training.real.pictures import Pictures
from lab.training.real.run import Run, train_adapter
from lab.training.real.settings import NEW, PAPER, read_settings
from lab.training.real.task import AdapterOnSet
from lab.training.real.training_set import Sample, read_set
from lab.training.state import load_state
from msd_core.adapters.ip_adapter import IPAdapter
from msd_core.adapters.mip_adapter import MIPAdapter
from msd_core.checkpoint import load_adapter

CHECKPOINT = MODELS / "checkpoints/micro.safetensors"
VISION = MODELS / "clip_vision/micro_vision.safetensors"
FAMILIES = {"MS-Diffusion": None, "IP-Adapter": IPAdapter, "MIP-Adapter": MIPAdapter}
SETTINGS = {"samples": 48, "batch": 8, "micro_batch": 4, "lr": 6e-4, "warmup": 0, "seed": 1,
            "validation": 6, "validate": 6, "pictures": 0}  # fmt: skip


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set")
    save_drawn_set(folder, 20)
    save_drawn_set(folder, 6, seed=5, size="wide")
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An adapter of each family, by its name."""
    folder = tmp_path_factory.mktemp("adapters")
    found = {"MS-Diffusion": MODELS / "ms_diffusion/ms_adapter_micro.safetensors"}
    torch.manual_seed(3)
    for name, kind in FAMILIES.items():
        if kind is not None:
            adapter, found[name] = networks.ip_adapter(kind, networks.unet()), folder / f"{name}.st"
            found[name] = folder / f"{name}.safetensors"
            save(adapter.state_dict(), found[name], adapter.metadata())
    return found


class Command:
    """python -m lab.training run, on a drawn set, with a cache that all runs share."""

    def __init__(self, drawn: Path, folder: Path, adapter: Path) -> None:
        (folder / "settings.json").write_text(json.dumps(SETTINGS))
        self.folder = folder
        self.arguments = [
            *("-m", "lab.training", "run", "--set", drawn, "--checkpoint", CHECKPOINT),
            *("--clip-vision", VISION, "--adapter", adapter, "--edge", "128"),
            *("--settings", folder / "settings.json", "--cache", folder / "cache"),
        ]

    def start(self, work: str, *more: str, launcher: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *launcher, *map(str, self.arguments), "--work", self.folder / work,
             *more],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )  # fmt: skip

    def run(self, work: str, *more: str, launcher: tuple[str, ...] = ()) -> str:
        process = self.start(work, *more, launcher=launcher)
        printed, _ = process.communicate()
        assert process.returncode == 0, printed
        return printed

    def result(self, work: str) -> dict[str, torch.Tensor]:
        return load_file(self.folder / work / "adapter.safetensors")


@pytest.fixture(scope="module")
def command(
    drawn: Path, files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Command:
    return Command(drawn, tmp_path_factory.mktemp("runs"), files["MS-Diffusion"])


@pytest.fixture(scope="module")
def printed(command: Command) -> str:
    """Of a run from new weights without a break."""
    return command.run("whole", "--fresh")


def largest_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max((one[name].float() - other[name].float()).abs().max().item() for name in one)


def test_it_encodes_trains_and_writes_an_adapter(command: Command, printed: str) -> None:
    assert "26 samples: 27 of the cache's files are missing, 27 to make here." in printed
    assert "run: finished after 48 samples" in printed
    adapter: Any = load_adapter(command.folder / "whole" / "adapter.safetensors")
    assert adapter.name == "MS-Diffusion"
    start = load_file(MODELS / "ms_diffusion/ms_adapter_micro.safetensors")
    assert largest_difference(start, command.result("whole")) > 0.1


def test_workers_encode_the_same(command: Command, printed: str, tmp_path: Path) -> None:
    """`cache`, by two of Ray's actors, each with a part, or in this process."""
    given = [*command.arguments[:-4], "--work", tmp_path]  # without settings and cache
    given[given.index("run")] = "cache"

    def cache(*more: str) -> str:
        done = subprocess.run(
            [sys.executable, *map(str, given), *more],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "27 of the cache's files are missing" in cache("--dry-run", "--shard", "1/3")
    assert not list(tmp_path.iterdir())
    assert "27 of the cache's files are missing" in cache("--shard", "1/3", "--workers", "2")
    left = 27 - len(list(tmp_path.rglob("*.safetensors")))
    assert 0 < left < 27
    assert f"{left} of the cache's files are missing, {left} to make here." in cache()
    for path in tmp_path.rglob("*.safetensors"):
        other = command.folder / path.relative_to(tmp_path)
        assert path.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("kind", NEW)
def test_training_from_nothing(
    kind: str, tmp_path: Path, registry: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No adapter's file is needed; the result is one."""
    import lab.microworld.pack  # noqa: F401

    save_drawn_set(tmp_path / "set", 3)
    settings = {**SETTINGS, "samples": 8, "batch": 4, "validation": 1}
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    arguments = [
        *("lab.training", "run", "--set", tmp_path / "set", "--checkpoint", CHECKPOINT),
        *("--clip-vision", VISION, "--new", kind, "--edge", 128, "--work", tmp_path / "work"),
        *("--settings", tmp_path / "settings.json"),
    ]
    monkeypatch.setattr(sys, "argv", list(map(str, arguments)))
    run = Run.open(parse())
    vars(run.encoders)["nodes"] = registry
    train_adapter(run)
    made: Any = load_adapter(tmp_path / "work" / "adapter.safetensors")
    assert made.name == run.adapter.name and made.needs == run.adapter.needs
    model = load_file(CHECKPOINT)
    first = "model.diffusion_model.input_blocks.3.1.transformer_blocks.0.attn2.to_k.weight"
    key = made.projections[0].to_k_ip.weight.float()
    assert 0 < (key - model[first].float()).abs().max() < 0.02  # from the model's own, and on


def test_a_run_that_was_stopped_and_killed_goes_on_to_the_same(
    command: Command, printed: str
) -> None:
    paused = command.run("stopped", "--fresh", "--minutes", "0.0001")
    assert "run: paused after 8 samples" in paused and "missing" not in paused
    with command.start("stopped", "--fresh") as killed:
        assert killed.stdout is not None
        assert any("run: resumed after 8 samples" in line for line in killed.stdout)
        killed.kill()
    assert killed.returncode == -signal.SIGKILL
    assert "run: resumed after 8 samples" in command.run("stopped", "--fresh", "--recompute")
    assert largest_difference(command.result("whole"), command.result("stopped")) == 0


LAUNCHERS = {
    "torch.distributed.run": ("--standalone", "--nproc-per-node", "2"),
    "accelerate.commands.launch": (
        *("--cpu", "--num_machines", "1", "--num_processes", "2"),
        *("--mixed_precision", "no", "--dynamo_backend", "no"),
    ),
}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes_are_one(command: Command, printed: str, launcher: str) -> None:
    pytest.importorskip(launcher.partition(".")[0])
    two = ("-m", launcher, *LAUNCHERS[launcher])
    printed_by_two = command.run(launcher, "--fresh", launcher=two)
    (line,) = (line for line in printed.splitlines() if "validation" in line)
    assert line in printed_by_two
    one, other = (load_state(command.folder / work, "run") for work in ("whole", launcher))
    assert largest_difference(one.weights, other.weights) < 1e-6
    assert largest_difference(one.ema, other.ema) < 1e-6


def apply_nodes(
    registry: dict[str, Any], model: Any, clip: Any, vision: Any, adapter: Any, sample: Sample,
    fit: tuple[str, str], height: int = 128, width: int = 128,
) -> Any:  # fmt: skip
    """The model with a drawn sample's subjects in a picture of this size, by the nodes."""
    _, boxes = fit_picture(sample, (height, width))
    specs = [
        {"phrase": subject.phrase, "box": list(box), "weight": 1.0}
        for subject, box in zip(sample.subjects, boxes, strict=True)
    ]
    references = {
        f"reference_{n}": torch.tensor(list(s.reference.open().convert("RGB").tobytes()))
        .view(1, 64, 64, 3)
        .float()
        / 255
        for n, s in enumerate(sample.subjects, 1)
    }
    layout = {"version": 1, "subjects": specs}
    (subjects, *_) = registry["MSDLayout"].execute(references, width, height, layout=layout).result
    (subjects,) = registry["MSDEncodeReferences"].execute(vision, subjects, *fit).result
    (subjects,) = registry["MSDGroundReferences"].execute(adapter, clip, subjects).result
    (patched,) = registry["MSDApply"].execute(model, adapter, subjects, 1.0).result
    return patched


def count_unets() -> int:
    gc.collect()
    return sum(type(each).__name__ == "UNetModel" for each in gc.get_objects())


def test_validation_pictures(
    command: Command, printed: str, registry: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same run with pictures, in this process. They don't change what is trained, hold no
    other checkpoint, and show what the nodes sample with the moving average, which after the last
    step is the result."""
    import folder_paths

    import lab.microworld.pack  # noqa: F401

    work, settings = command.folder / "shown", command.folder / "shown.json"
    settings.write_text(json.dumps({**SETTINGS, "pictures": 2}))
    arguments = [*command.arguments[1:], "--work", work, "--settings", settings]
    monkeypatch.setattr(sys, "argv", [*map(str, arguments), "--fresh", "--recompute"])
    run = Run.open(parse())
    vars(run.encoders)["nodes"] = registry
    before, counted, made = count_unets(), [], []
    save, sample_it = Pictures.save, registry["KSampler"].sample

    def save_with_the_same_random_state(self: Pictures, adapter: Path, name: str) -> None:
        state = torch.get_rng_state()
        save(self, adapter, name)
        assert torch.equal(torch.get_rng_state(), state)
        made.append(self)

    def sample_and_count(*args: Any, **kwargs: Any) -> Any:
        counted.append(count_unets() - before)
        return sample_it(*args, **kwargs)

    monkeypatch.setattr(Pictures, "save", save_with_the_same_random_state)
    with monkeypatch.context() as counting:
        counting.setattr(registry["KSampler"], "sample", sample_and_count)
        train_adapter(run)
    assert largest_difference(command.result("shown"), command.result("whole")) == 0
    assert counted == [1, 1] and "vision" not in vars(run.encoders)

    (sheet,) = (work / "pictures").iterdir()
    assert sheet.name == "6.png"  # the last of 6 steps
    sample = made[0].samples[0]  # at seed 0
    height, width = bucket(picture_size(sample.picture), 128)
    model, clip, vae = run.encoders.loaded
    folder_paths.add_model_folder_path("ms_diffusion", str(work), is_default=True)
    (adapter,) = registry["MSDLoadAdapter"].execute("adapter.safetensors").result
    with torch.no_grad():
        nodes = registry, model, clip, run.encoders.vision, adapter, sample
        patched = apply_nodes(*nodes, ("stretch", "black"), height, width)
        texts = [registry["CLIPTextEncode"]().encode(clip, t)[0] for t in (sample.caption, "")]
        (latent,) = registry["EmptyLatentImage"]().generate(width, height)
        (latent,) = registry["KSampler"]().sample(
            patched, 0, 30, 7.5, "euler", "normal", *texts, latent
        )
        (expected,) = registry["VAEDecode"]().decode(vae, latent)
    picture = to_pil(expected[0].movedim(-1, 0).clamp(0, 1))
    expected = ImageOps.pad(picture, (512, 512), color="white")
    cell = Image.open(sheet).crop((512, 0, 1024, 512))
    assert ImageChops.difference(cell, expected).getbbox() is None


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("without_image", [False, True])
def test_what_is_trained_is_what_the_nodes_sample(
    registry: dict[str, Any],
    drawn: Path,
    files: dict[str, Path],
    tmp_path: Path,
    family: str,
    without_image: bool,
) -> None:
    """One call of the model at one noise: the positive's rows, and those without references, which
    are the negative's."""
    import folder_paths

    import lab.microworld.pack  # noqa: F401

    adapter: Any = load_adapter(files[family]).float()
    encoders = Encoders(CHECKPOINT, VISION, adapter.name, adapter.needs, 128)
    vars(encoders)["nodes"] = registry
    cache = Cache(tmp_path, "key")
    samples = [s for s in read_set(drawn) if len(s.subjects) == 2][:2]
    for sample in samples:
        cache.save(cache.key(sample), encoders.encode(sample))
    cache.save(cache.key(None), encoders.blank())
    settings = read_settings(PAPER)
    vars(settings)["validation"] = 0
    model, clip, _ = encoders.loaded
    frozen = Frozen(model, adapter)
    keys = [cache.key(sample) for sample in samples]
    task = AdapterOnSet(settings, frozen, adapter, cache, keys, tmp_path)
    encoded = cache.load(keys[0])
    undropped = read_settings(PAPER)
    vars(undropped).update(text=0.0, image=float(without_image), both=0.0, grounding=0.0)
    batch = draw_batch([encoded], task.blank, undropped, torch.Generator().manual_seed(2))
    batch.timesteps[:] = 600
    with torch.no_grad():
        trained, _ = task.error(batch)
        without, _ = frozen.error(batch)
    changes = family != "MS-Diffusion" or not without_image
    assert (abs(trained / without - 1) > 1e-3) == changes

    folder_paths.add_model_folder_path("ipadapter", str(files[family].parent), is_default=True)
    (loaded,) = registry["MSDLoadAdapter"].execute(files[family].name).result
    sample = samples[0]
    fit = ("stretch", "black") if family == "MS-Diffusion" else ("clip", "keep")
    patched = apply_nodes(registry, model, clip, encoders.vision, loaded, sample, fit)

    def once(model: Any, x: Any, sigmas: Any, extra_args: Any, *rest: Any, **more: Any) -> Any:
        return model(x, sigmas[:1], **extra_args)

    guider = comfy.samplers.CFGGuider(patched)
    (text,) = registry["CLIPTextEncode"]().encode(clip, sample.caption)
    guider.set_conds(text, text)
    guider.set_cfg(0.0 if without_image else 1.0)  # the negative's rows alone, or the positive's
    sigma = model.model.model_sampling.sigmas[600]
    latent = model.model.process_latent_out(batch.latents)
    sampled = guider.sample(
        batch.noise, latent, comfy.samplers.KSAMPLER(once), torch.stack([sigma, sigma * 0]), seed=1
    )
    denoised = model.model.process_latent_in(sampled)
    expected = ((denoised - batch.latents) / sigma).square().mean((1, 2, 3))
    assert abs(trained / expected - 1) < 2e-3


@pytest.mark.parametrize(
    ("option", "file", "reason"),
    [
        ("--checkpoint", "garbage.safetensors", "Error while deserializing header"),
        ("--checkpoint", "empty.safetensors", "Error while deserializing header"),
        ("--checkpoint", "garbage.ckpt", "Weights only load failed."),
        ("--checkpoint", "list.ckpt", "'int' object has no attribute"),
        ("--checkpoint", MODELS / "judge/judge.safetensors", "ERROR: Could not detect model type"),
        ("--checkpoint", MODELS / "checkpoints/micro_flux.safetensors", "ERROR: VAE is invalid"),
        ("--clip-vision", "garbage.safetensors", "Error while deserializing header"),
        ("--clip-vision", CHECKPOINT, "ERROR: clip vision file is invalid"),
    ],
)
def test_models_that_cant_be_loaded(
    registry: dict[str, Any], tmp_path: Path, option: str, file: str | Path, reason: str
) -> None:
    (tmp_path / "empty.safetensors").touch()
    torch.save([1, 2], tmp_path / "list.ckpt")
    for name in ("garbage.safetensors", "garbage.ckpt"):
        (tmp_path / name).write_bytes(bytes(range(1, 256)) * 8)
    path = tmp_path / file
    adapter: Any = load_adapter(MODELS / "ms_diffusion/ms_adapter_micro.safetensors")
    checkpoint, vision = (path, VISION) if option == "--checkpoint" else (CHECKPOINT, path)
    encoders = Encoders(checkpoint, vision, adapter.name, adapter.needs, 128)
    vars(encoders)["nodes"] = registry
    kind = "a checkpoint of SDXL or SD1.5" if option == "--checkpoint" else "CLIP's image encoder"
    with pytest.raises(ValueError, match=re.escape(reason)) as error:
        MakeEncodingWorker(Cache(tmp_path, "key"), encoders)("worker")
    sentence = str(error.value)
    assert sentence.startswith(f"{option}: {path} can't be loaded as {kind}: {reason}")
    assert "\n" not in sentence


def draw_encoded(n: int, g: torch.Generator) -> dict[str, torch.Tensor]:
    """A sample with two subjects, as the cache has it, its values n and above."""
    return {
        "latent": torch.randn(4, 16, 16, generator=g),
        "context": torch.full((2, 3), n),
        "pooled": torch.full((5,), n),
        "boxes": torch.tensor([[0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0]]),
        "features": torch.ones(2, 6),
        "phrase_1": torch.ones(7),
        "phrase_2": torch.ones(7),
    }


@pytest.mark.parametrize(
    "fractions", [(0.2, 0.1, 0.3, 0.4), (0.0, 0.0, 0.0, 0.0), (0.0, 0.0, 1.0, 1.0)]
)
def test_samples_lose_what_the_settings_say(fractions: tuple[float, ...]) -> None:
    """Text, references or both, of a sample at most one of these; and grounding beside."""
    settings = read_settings(PAPER)
    vars(settings).update(zip(("text", "image", "both", "grounding"), fractions, strict=True))
    g = torch.Generator().manual_seed(1)
    samples, blank = [draw_encoded(n, g) for n in range(1, 2001)], draw_encoded(0, g)
    batch = draw_batch(samples, blank, settings, g)
    without_text = (batch.context == 0).all((1, 2))
    assert batch.pooled is not None
    assert torch.equal(batch.context[:, 0, 0], batch.pooled[:, 0])
    own = torch.arange(1, 2001).float()
    assert torch.equal(batch.context[~without_text, 0, 0], own[~without_text])
    without_image, without_grounding = batch.without_image, batch.without_grounding
    found = (
        without_text & ~without_image,
        without_image & ~without_text,
        without_text & without_image,
        without_grounding,
    )
    for rows, fraction in zip(found, fractions, strict=True):
        deviation = (fraction * (1 - fraction) / 2000) ** 0.5
        assert abs(rows.float().mean() - fraction) <= 4 * deviation
    grounded_less = without_grounding[without_text].float().mean()
    assert not without_text.any() or abs(grounded_less - fractions[3]) < 0.07  # of its own draw
    assert torch.equal(batch.of_subjects(without_image), without_image.repeat_interleave(2))


@pytest.fixture(scope="module")
def task(registry: dict[str, Any], drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Of the family's MS adapter, on two samples, with nothing dropped."""
    adapter: Any = load_adapter(MODELS / "ms_diffusion/ms_adapter_micro.safetensors").float()
    encoders = Encoders(CHECKPOINT, VISION, adapter.name, adapter.needs, 128)
    vars(encoders)["nodes"] = registry
    folder = tmp_path_factory.mktemp("task")
    cache = Cache(folder, "key")
    samples = [s for s in read_set(drawn) if s.name.startswith("square")][:2]
    for sample in (None, *samples):
        cache.save(cache.key(sample), encoders.encode(sample) if sample else encoders.blank())
    settings = replace(read_settings(PAPER), text=0, image=0, both=0, grounding=0, validation=0)
    frozen = Frozen(encoders.loaded[0], adapter)
    keys = [cache.key(sample) for sample in samples]
    return AdapterOnSet(settings, frozen, adapter, cache, keys, folder)


def draw_two(task: Any) -> Any:
    """Both samples, with little and with much noise."""
    samples = [task.cache.load(key) for key in task.buckets[0]]
    batch = draw_batch(samples, task.blank, task.settings, torch.Generator().manual_seed(2))
    batch.timesteps[:] = torch.tensor([50, 800])
    return batch.to(task.frozen.device)


def alphas_cumprod() -> torch.Tensor:
    """[1000], Stable Diffusion's."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return (1 - betas).cumprod(0).float()


@pytest.mark.parametrize("min_snr", [0.0, 5.0])
def test_min_snr_weighs_the_errors(
    task: Any, min_snr: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By min_snr over the signal-to-noise ratio, where that is less than 1."""
    monkeypatch.setattr(task, "settings", replace(task.settings, min_snr=min_snr))
    batch = draw_two(task)
    with torch.no_grad():
        (little, much), _ = task.error(batch)
        losses = task(batch)
    alpha = alphas_cumprod()[50]
    weight = min_snr / (alpha / (1 - alpha)) if min_snr else 1.0
    assert abs(losses["loss"] / ((little * weight + much) / 2) - 1) < 1e-3
    assert abs(losses["error"] / ((little + much) / 2) - 1) < 1e-3


@pytest.mark.parametrize("prediction", ["eps", "v_prediction"])
def test_the_error_is_that_of_the_noise(
    task: Any, registry: dict[str, Any], prediction: str
) -> None:
    """Whatever the model predicts; against the network itself, by the formulas of DDPM."""
    (model,) = registry["ModelSamplingDiscrete"]().patch(task.frozen.model, prediction, False)
    frozen = Frozen(model, task.adapter)
    batch = draw_two(task)
    alpha = alphas_cumprod()[batch.timesteps.cpu()].to(batch.latents)[:, None, None, None]
    noisy = alpha.sqrt() * batch.latents + (1 - alpha).sqrt() * batch.noise
    more = {}
    if batch.pooled is not None:
        more["y"] = frozen.base.encode_adm(
            pooled_output=batch.pooled, width=128, height=128, device=frozen.device
        )
    with torch.no_grad():
        error, ratios = frozen.error(batch)
        predicted = frozen.unet(noisy, batch.timesteps, batch.context, **more)
    if prediction == "v_prediction":
        predicted = alpha.sqrt() * predicted + (1 - alpha).sqrt() * noisy
    expected = (predicted - batch.noise).square().mean((1, 2, 3))
    assert torch.allclose(error, expected, rtol=1e-3)
    assert torch.allclose(ratios, (alpha / (1 - alpha)).flatten(), rtol=1e-3)
    task.frozen.load()  # with its own sampling again
