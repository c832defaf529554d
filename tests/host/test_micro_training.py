"""Every stage of the micro world's training, for seconds, and the files that come of it."""

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import comfy.samplers
import pytest
import torch
from conftest import HOST, ROOT
from safetensors import safe_open

RUNS = (("vae", "encoders"), ("base",), ("adapter", "adapter_without_masks", "judge"))
SECONDS = 6  # of every stage; the base trains in two processes


def run(*arguments: str, processes: int = 1) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(HOST), str(ROOT)))}
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    done = subprocess.run(
        [sys.executable, *(several if processes > 1 else ()), "-m", "microworld", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work folder of a family that was trained for less than a minute."""
    folder = tmp_path_factory.mktemp("work")
    for stages in RUNS:
        run(
            *("train", "--stage", *stages, "--minutes", str(SECONDS / 60)),
            *("--scenes", "0.03", "--work", str(folder)),
            processes=2 if stages == ("base",) else 1,
        )
    return folder


@pytest.fixture(scope="module")
def models(work: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models folder with its files."""
    folder = tmp_path_factory.mktemp("models")
    run("export", "--work", str(work), "--models", str(folder))
    return folder


@pytest.mark.parametrize("stage", sum(RUNS, ()))
def test_every_stage_learns(work: Path, stage: str) -> None:
    state = torch.load(work / f"{stage}.pt", weights_only=False)
    step, seconds, samples, _ = state["progress"]
    assert step > 0 and samples > 0 and seconds >= SECONDS
    assert all(v.isfinite().all() for v in state["average"].values())
    assert state["metadata"][f"{stage}.steps"] == str(step)


def test_a_stage_goes_on_where_it_stopped(work: Path) -> None:
    before, seconds, *_ = torch.load(work / "vae.pt", weights_only=False)["progress"]
    minutes = str((seconds + 1) / 60)  # a slow step may have overrun the time it had
    said = run("train", "--stage", "vae", "--minutes", minutes, "--work", str(work))
    assert f"resumed at step {before}" in said
    assert torch.load(work / "vae.pt", weights_only=False)["progress"][0] > before


def test_only_the_adapter_moves_in_its_stage(work: Path) -> None:
    base = torch.load(work / "base.pt", weights_only=False)["average"]
    adapter = torch.load(work / "adapter.pt", weights_only=False)["average"]
    assert {f"adapter.{name}" for name in adapter} == {n for n in base if n.startswith("adapter.")}
    moved = {n for n, v in adapter.items() if not torch.equal(v, base[f"adapter.{n}"])}
    assert moved == set(adapter) - {"dummy_image_tokens"}


def test_the_files_run_in_the_host(models: Path, registry: dict[str, Any]) -> None:
    import microworld.host_pack  # noqa: F401
    from microworld.host import Sampler

    files = {p.relative_to(models).as_posix(): p for p in models.rglob("*.safetensors")}
    assert set(files) == {
        "checkpoints/micro.safetensors",
        "clip_vision/micro_vision.safetensors",
        "judge/judge.safetensors",
        "ms_diffusion/ms_adapter_micro.safetensors",
        "ms_diffusion/ms_adapter_micro_without_masks.safetensors",
    }
    assert sum(p.stat().st_size for p in files.values()) <= 20e6
    with safe_open(files["ms_diffusion/ms_adapter_micro.safetensors"], "pt") as file:
        said = file.metadata()
    assert {"base.seed", "base.steps", "adapter.steps", "adapter.minutes", "torch"} <= set(said)
    picture = Sampler(registry, models).picture("a star on snow", (96, 144), seed=1, steps=2)
    assert picture.shape == (3, 96, 144) and picture.isfinite().all()


def test_what_the_host_samples_is_what_was_trained(
    work: Path, models: Path, registry: dict[str, Any]
) -> None:
    """A picture through the nodes, and the same by the training's own modules and plain Euler."""
    import microworld.host_pack  # noqa: F401
    from microworld.evaluation import draw_evaluation
    from microworld.family_training import Family, Guidance, Vocabulary
    from microworld.host import GUIDANCE, NEGATIVE, Sampler
    from microworld.scenes import SHAPES, caption

    steps = 4
    sampler, scenes = Sampler(registry, models), draw_evaluation("two").scenes
    references = draw_evaluation("two").references[0, :2]
    boxes, looks = scenes.boxes[:1], scenes.looks[0]
    text = caption(looks, boxes[0], int(scenes.background[0]))
    phrases = [SHAPES[int(s)] for s in looks.shape[:2]]
    subjects = sampler.subjects(references, phrases, boxes[0, :2], (128, 128))
    picture = sampler.picture(text, (128, 128), 7, subjects, steps=steps)

    family = Family(Vocabulary())
    family.load_state_dict(torch.load(work / "base.pt", weights_only=False)["average"])
    family.adapter.load_state_dict(torch.load(work / "adapter.pt", weights_only=False)["average"])
    family.half().float().eval()
    no = torch.zeros(1, dtype=torch.bool)
    guided = Guidance(references, phrases, boxes, no, no, no)
    alone = Guidance(references[:0], [], torch.zeros_like(boxes), no, no, no)
    sampling = sampler.model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", steps)
    x = torch.randn(1, 4, 16, 16, generator=torch.manual_seed(7))
    x = x * (1 + sigmas[0] ** 2).sqrt()
    with torch.no_grad():
        for sigma, after in pairwise(sigmas):
            noisy, time = x / (1 + sigma**2).sqrt(), sampling.timestep(sigma)[None]
            noise, plain = (
                family(noisy, time, [words], guidance, family.image_tokens(guidance))[0]
                for words, guidance in ((text, guided), (NEGATIVE, alone))
            )
            x = x + (plain + GUIDANCE * (noise - plain)) * (after - sigma)
        latent = {"samples": x / 0.13025}
        expected = registry["VAEDecode"]().decode(sampler.vae, latent)[0][0].movedim(-1, 0)
    assert (picture - expected).abs().max() < 0.02
