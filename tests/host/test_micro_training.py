"""Every stage of the micro family's training, for a few samples, and the files that it exports."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import comfy.samplers
import pytest
import torch
from conftest import HOST, ROOT
from safetensors import safe_open

from lab.training.config import STAGES, StageSettings
from lab.training.state import load_ema, load_finished, load_state

OTHERS = ("ip_adapter", "mip_adapter")
RUNS = (
    ("vae", "encoders"),
    ("base",),
    ("adapter", "adapter_without_masks", "judge", "flux"),
    OTHERS,
)
SAMPLES = 96  # of every stage: 2 to 6 steps; the base trains in two processes


def run(*arguments: str, processes: int = 1) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(HOST), str(ROOT)))}
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    done = subprocess.run(
        [sys.executable, *(several if processes > 1 else ()), "-m", "lab.training", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def train(folder: Path, *stages: str, more: tuple[str, ...] = (), processes: int = 1) -> str:
    given = ("--samples", str(SAMPLES), "--scenes", "0.03", "--work", str(folder))
    return run("train", "--stage", *stages, *given, *more, processes=processes)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work folder of a family that was trained for less than a minute."""
    folder = tmp_path_factory.mktemp("work")
    for stages in RUNS:
        train(folder, *stages, processes=2 if stages == ("base",) else 1)
    return folder


@pytest.fixture(scope="module")
def models(work: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models folder with its files."""
    folder = tmp_path_factory.mktemp("models")
    run("export", "--work", str(work), "--models", str(folder))
    return folder


@pytest.mark.parametrize("stage", sum(RUNS, ()))
def test_every_stage_learns(work: Path, stage: str) -> None:
    state = load_finished(work, stage)
    batch = STAGES[stage].batch
    assert state.step == math.ceil(SAMPLES / batch) and state.samples == state.step * batch
    assert all(v.isfinite().all() for v in state.ema.values())
    assert any(not torch.equal(v, state.ema[name]) for name, v in state.weights.items())


def test_a_stopped_stage_goes_on_to_the_same_weights(work: Path, tmp_path: Path) -> None:
    """Bit for bit, in a folder that draws its own scenes."""
    for name in ("vae", "base"):
        (tmp_path / f"{name}.pt").write_bytes((work / f"{name}.pt").read_bytes())
    stopped = train(tmp_path, "adapter", more=("--minutes", "0.0001"))
    samples = load_state(tmp_path, "adapter").samples
    assert f"paused after {samples} samples" in stopped and samples < SAMPLES
    assert f"resumed after {samples} samples" in train(tmp_path, "adapter")
    first, other = load_finished(work, "adapter"), load_finished(tmp_path, "adapter")
    for kind in ("weights", "ema"):
        a, b = getattr(first, kind), getattr(other, kind)
        assert all(torch.equal(value, b[name]) for name, value in a.items())


def test_only_the_adapter_moves_in_its_stage(work: Path) -> None:
    base, adapter = load_ema(work, "base"), load_ema(work, "adapter")
    assert {f"adapter.{name}" for name in adapter} == {n for n in base if n.startswith("adapter.")}
    moved = {n for n, v in adapter.items() if not torch.equal(v, base[f"adapter.{n}"])}
    assert moved == set(adapter) - {"dummy_image_tokens"}


def test_later_stages_can_go_on_from_the_files(work: Path, models: Path, tmp_path: Path) -> None:
    """In float16, but for what the files don't hold, which is for training alone."""
    run("import", "--work", str(tmp_path), "--models", str(models))
    expected = load_ema(work, "base")
    expected |= {f"adapter.{name}": value for name, value in load_ema(work, "adapter").items()}
    expected = {k: v for k, v in expected.items() if not k.startswith("read_edges.")}
    for stage, before in (("vae", load_ema(work, "vae")), ("base", expected)):
        after = load_ema(tmp_path, stage)
        assert all(torch.equal(after[name], v.half().float()) for name, v in before.items())


def test_the_files_run_in_the_host(models: Path, registry: dict[str, Any]) -> None:
    from micro_samplers import Sampler

    import lab.microworld.pack  # noqa: F401

    files = {p.relative_to(models).as_posix(): p for p in models.rglob("*.safetensors")}
    assert set(files) == {
        "checkpoints/micro.safetensors",
        "checkpoints/micro_flux.safetensors",
        *(f"ipadapter/{stage}_micro.safetensors" for stage in OTHERS),
        "clip_vision/micro_vision.safetensors",
        "judge/judge.safetensors",
        "ms_diffusion/ms_adapter_micro.safetensors",
        "ms_diffusion/ms_adapter_micro_without_masks.safetensors",
    }
    shipped = [path for name, path in files.items() if not name.startswith("ipadapter/")]
    assert sum(path.stat().st_size for path in shipped) <= 26e6
    with safe_open(files["ms_diffusion/ms_adapter_micro.safetensors"], "pt") as file:
        metadata = file.metadata()
    assert {"base.seed", "base.steps", "adapter.steps", "adapter.minutes", "torch"} <= set(metadata)
    settings = StageSettings(**json.loads(metadata["adapter.settings"]))
    assert settings == replace(STAGES["adapter"], samples=SAMPLES, scenes=0.03)
    picture = Sampler(registry, models).picture("a star on snow", (96, 144), seed=1, steps=2)
    assert picture.shape == (3, 96, 144) and picture.isfinite().all()


@pytest.mark.parametrize("stage", ["adapter", *OTHERS])
def test_what_the_host_samples_is_what_was_trained(
    work: Path, models: Path, registry: dict[str, Any], stage: str
) -> None:
    """A picture through the nodes, and the same by the training's own modules and plain Euler."""
    from micro_samplers import Sampler

    import lab.microworld.pack  # noqa: F401
    from lab.evaluation.cases import draw_held_out
    from lab.host.workflows import CFG, NEGATIVE
    from lab.microworld.scenes import SHAPES, caption
    from lab.training.family import Family, SubjectBatch
    from lab.training.stages.ip_adapter import IPAdapterTask
    from lab.training.vocabulary import Vocabulary

    adapter = f"{'ms_' if stage == 'adapter' else ''}{stage}_micro.safetensors"
    steps, sampler, scenes = 4, Sampler(registry, models, adapter), draw_held_out("two").scenes
    references = draw_held_out("two").references[0, :2]
    boxes, looks = scenes.boxes[:1], scenes.looks[0]
    text = caption(looks, boxes[0], int(scenes.background[0]))
    phrases = [SHAPES[int(s)] for s in looks.shape[:2]]
    subjects = sampler.subjects(references, phrases, boxes[0, :2], (128, 128))
    picture = sampler.picture(text, (128, 128), 7, subjects, steps=steps)

    no = torch.zeros(1, dtype=torch.bool)
    guided = SubjectBatch(references, phrases, boxes, no, no, no)
    if stage == "adapter":
        alone = SubjectBatch(references[:0], [], torch.zeros_like(boxes), no, no, no)
        family = Family(Vocabulary())
        family.load_state_dict(load_ema(work, "base"))
        family.adapter.load_state_dict(load_ema(work, "adapter"))
        family.half().float().eval()

        def predict(*inputs: Any) -> torch.Tensor:
            return family(*inputs, family.image_tokens(inputs[-1]))[0]
    else:
        alone = replace(guided, drop_grounding=~no)  # blank image tokens
        # Not by `build_task`, which would change this process' host.
        task = IPAdapterTask(replace(STAGES[stage], scenes=0.03), work, torch.device("cpu"))
        task.adapter.load_state_dict(load_ema(work, stage))
        task.half().float().eval()
        predict = task.noise
    sampling = sampler.model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", steps)
    x = torch.randn(1, 4, 16, 16, generator=torch.manual_seed(7))
    x = x * (1 + sigmas[0] ** 2).sqrt()
    with torch.no_grad():
        for sigma, after in pairwise(sigmas):
            noisy, timestep = x / (1 + sigma**2).sqrt(), sampling.timestep(sigma)[None]
            noise, plain = (
                predict(noisy, timestep, [words], subjects)
                for words, subjects in ((text, guided), (NEGATIVE, alone))
            )
            x = x + (plain + CFG * (noise - plain)) * (after - sigma)
        latent = {"samples": x / 0.13025}
        expected = registry["VAEDecode"]().decode(sampler.vae, latent)[0][0].movedim(-1, 0)
    assert (picture - expected).abs().max() < 0.02


def test_what_the_host_samples_of_the_flux_is_what_was_trained(
    work: Path, models: Path, registry: dict[str, Any]
) -> None:
    """Not placed, and the same by the training's own modules and plain Euler."""
    from micro_samplers import FluxSampler

    import lab.microworld.pack  # noqa: F401
    from lab.evaluation.cases import draw_held_out
    from lab.host.sampler import lay_out
    from lab.host.workflows import CFG, STEPS
    from lab.microworld import networks
    from lab.training.stages.flux import Texts

    sampler, held_out = FluxSampler(registry, models), draw_held_out("small")
    references, text = held_out.references[0, :2], "a star and a heart on snow"
    boxes = held_out.scenes.boxes[0, :2]
    subjects = lay_out(registry, references, ["a star", "a heart"], boxes, (96, 96))
    picture = sampler.picture(text, subjects, 7)

    flux, texts = networks.flux(), Texts(work)
    flux.load_state_dict(load_ema(work, "flux"))
    flux.half().float().eval()
    texts.family.half().float()
    pixels = (references * 255).round() / 255  # MSDReferenceLatents rounds to 8 bits
    sampling = sampler.model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "simple", STEPS)
    x = torch.randn(1, 4, 12, 12, generator=torch.manual_seed(7))
    with torch.no_grad():
        given = [sampler.vae.encode(p[None].movedim(1, -1)) * 0.13025 for p in pixels]
        for sigma, after in pairwise(sigmas):
            velocity, plain = (
                flux(x, sigma[None], *texts.encode([words]), ref_latents=latents)
                for words, latents in ((text, given), ("", None))
            )
            x = x + (plain + CFG * (velocity - plain)) * (after - sigma)
        latent = {"samples": x / 0.13025}
        expected = registry["VAEDecode"]().decode(sampler.vae, latent)[0][0].movedim(-1, 0)
    assert (picture - expected.clamp(0, 1)).abs().max() < 0.02
