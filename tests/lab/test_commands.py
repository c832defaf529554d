"""The commands of the lab: help, and a sentence instead of a traceback."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from drawn_set import save_drawn_set
from job_lines import ENVIRONMENT, line, save_lines
from safetensors.torch import save_file

import lab.demo
import lab.evaluation.__main__
import lab.jobs.__main__
import lab.templates
import lab.training.__main__
from lab import ROOT
from lab.jobs.folder import Folder
from lab.jobs.worker import STOPPED
from lab.microworld import MODELS
from lab.progress import Progress
from lab.training.real.settings import PAPER, read_settings

COMMANDS = {
    "lab.demo": lab.demo.main,
    "lab.evaluation": lab.evaluation.__main__.main,
    "lab.jobs": lab.jobs.__main__.main,
    "lab.templates": lab.templates.main,
    "lab.training": lab.training.__main__.main,
}


def run(main: Callable[[], None], monkeypatch: pytest.MonkeyPatch, *arguments: object) -> object:
    """What the command exits with."""
    monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        main()
    return caught.value.code


def dry_run(
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *arguments: object,
) -> str:
    """What the command prints with --dry-run, when nothing is wrong."""
    monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments), "--dry-run"])
    COMMANDS[name]()
    return capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_help(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(COMMANDS[name], monkeypatch, "--help") == 0
    assert f"usage: python -m {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "command", [("lab.training", "check"), ("lab.evaluation", "report", "--scores")]
)
def test_ctrl_c_while_pytorch_is_imported(tmp_path: Path, command: tuple[str, ...]) -> None:
    """That takes seconds, and loses exceptions. Here it takes longer."""
    begun = tmp_path / "begun"
    (tmp_path / "torch.py").write_text(
        f"import pathlib, time\npathlib.Path({str(begun)!r}).touch()\nwhile True: time.sleep(0.01)"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", *command, tmp_path],
        cwd=tmp_path,
        env={**ENVIRONMENT, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))},
        stderr=subprocess.PIPE,
        text=True,
    )
    while not begun.exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.communicate()[1] == "Stopped. The same command goes on.\n"
    assert process.returncode == 1


@pytest.mark.parametrize("name", ["lab.demo", "lab.templates"])
def test_without_a_host(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    assert str(run(COMMANDS[name], monkeypatch)).startswith("COMFYUI_PATH is None; it must name")


@pytest.mark.parametrize("name", ["msbench", "dreambench"])
def test_lines_of_another_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = run(COMMANDS["lab.evaluation"], monkeypatch, name, tmp_path, "--out", tmp_path / "out")
    assert f"{tmp_path} isn't a checkout of " in str(error)
    assert not (tmp_path / "out").exists()


def test_lines_of_the_micro_world(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, command = tmp_path / "work" / "lines.jsonl", COMMANDS["lab.evaluation"]
    arguments = ("microworld", "--out", out, "--only", "masks", "text only")
    printed = dry_run("lab.evaluation", monkeypatch, capsys, *arguments)
    # 200 scenes as drawn and through the VAE, and 200 and 60 that are sampled.
    assert printed == f"660 lines of 4 cases would go to {out}.\n"
    assert not out.parent.exists()
    lost = tmp_path / "lost"
    error = run(command, monkeypatch, *arguments, "--models", lost)
    assert error == f"--models: {lost} is no folder."
    error = run(command, monkeypatch, *arguments, "--models", tmp_path)
    assert error == f"--models: masks: no folder of {tmp_path} has ms_adapter_micro.safetensors."
    error = run(command, monkeypatch, "microworld", "--out", out, "--models", tmp_path)
    assert error == f"--models: no folder of {tmp_path} has an adapter of the micro family."
    error = run(command, monkeypatch, *arguments, "--count", 201)
    assert error == "--count: expected 1 to 200, got 201."
    error = run(command, monkeypatch, "microworld", "--out", out, "--only", "mask")
    assert str(error).startswith("--only: there is no case 'mask'; there are masks; without masks;")


def test_a_stage_before_one_that_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = ("train", "--stage", "judge", "--work", tmp_path)
    error = run(COMMANDS["lab.training"], monkeypatch, *train)
    assert "vae.pt doesn't exist. Train it first: python -m lab.training train" in str(error)


def test_settings_that_make_no_sense(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = ("train", "--stage", "vae", "--samples", 0, "--work", tmp_path)
    assert run(COMMANDS["lab.training"], monkeypatch, *train) == "vae: samples must be positive."


def test_dry_runs_of_the_family_s_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They write nothing, and fail where the commands would."""

    def printed(*arguments: object) -> str:
        return dry_run("lab.training", monkeypatch, capsys, *arguments, "--work", work)

    work, models = tmp_path / "work", tmp_path / "models"
    stages = ("train", "--stage", "vae", "encoders", "base", "judge")
    planned = printed(*stages, "--samples", 1000)
    assert "vae: would train on 1000 samples, after 0, in steps of 16.\n" in planned
    assert planned.count("would train") == 4 and planned.endswith("Nothing was written.\n")
    assert "Would write stages vae and base" in printed("import") and not work.exists()
    for stage, needed in (("adapter", "vae"), ("judge", "vae"), ("flux", "vae")):
        train = ("train", "--stage", stage, "--work", work)
        sentence = run(COMMANDS["lab.training"], monkeypatch, *train)
        assert f"{needed}.pt doesn't exist" in str(sentence)
        assert run(COMMANDS["lab.training"], monkeypatch, *train, "--dry-run") == sentence

    monkeypatch.setattr(sys, "argv", ["command", "import", "--work", str(work)])
    COMMANDS["lab.training"]()
    assert "adapter: would train on 9568 samples" in printed("train", "--stage", "adapter")
    assert "vae: would train on 0 samples, after 72592" in printed("train", "--stage", "vae")
    assert sorted(path.name for path in work.iterdir()) == ["base.pt", "vae.pt"]
    exported = printed("export", "--models", models)
    for name in ("checkpoints/micro", "clip_vision/micro_vision", "ms_diffusion/ms_adapter_micro"):
        assert f"Would write {models / name}.safetensors, " in exported
    assert exported.count("Would write") == 3 and not models.exists()
    other = ("train", "--stage", "vae", "--seed", 9, "--work", work, "--dry-run")
    assert "is of other settings: seed is 9, was 1" in str(
        run(COMMANDS["lab.training"], monkeypatch, *other)
    )


def run_jobs(folder: Path, monkeypatch: pytest.MonkeyPatch, *more: object) -> object:
    _, _, _, verb, lines, *options = save_lines(folder, [line(1)])
    return run(
        COMMANDS["lab.jobs"], monkeypatch, verb, lines, *options, "--out", folder / "out", *more
    )


def test_what_ctrl_c_became(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy's import makes a RecursionError of it."""

    def make(*_: object) -> None:
        STOPPED.set()
        raise RecursionError

    monkeypatch.setattr(lab.jobs.__main__, "make", make)
    try:
        assert run_jobs(tmp_path, monkeypatch) == "Stopped. The same command goes on."
    finally:
        STOPPED.clear()


def test_a_dry_run_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, _, _, verb, lines, *options = save_lines(tmp_path, [line(1), line(2)])
    arguments = (verb, lines, *options, "--out", tmp_path / "out")
    printed = dry_run("lab.jobs", monkeypatch, capsys, *arguments)
    assert "2 jobs: 0 are there, 0 failed before, 2 to make in this process." in printed
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b"])
def test_a_shard_that_is_none(
    tmp_path: Path, shard: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_jobs(tmp_path, monkeypatch, "--shard", shard) == 2
    assert f"must be like 3/64, from 1/64 to 64/64, got {shard!r}" in capsys.readouterr().err


def test_no_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_jobs(tmp_path, monkeypatch, "--workers", 0) == 2
    assert run_jobs(tmp_path, monkeypatch, "--workers", 2, "--server", "http://127.0.0.1:1") == 2
    printed = capsys.readouterr().err
    assert "--workers: must be at least 1, got '0'" in printed
    assert "--server goes without --workers" in printed


@pytest.mark.parametrize("address", ["", "nonsense", "http://127.0.0.1:8265"])
def test_an_address_that_is_none(
    tmp_path: Path,
    address: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An empty one is that of a variable that isn't set, not the loop."""
    assert run_jobs(tmp_path, monkeypatch, "--address", address) == 2
    assert f"must be like 10.0.0.1:6379, or auto, got {address!r}" in capsys.readouterr().err


def test_an_address_where_nothing_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = run_jobs(tmp_path, monkeypatch, "--address", "127.0.0.1:1")
    assert str(error).startswith("--address: nothing answers at 127.0.0.1:1: ")
    assert str(error).count("\n") == 0


def test_a_server_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = run_jobs(tmp_path, monkeypatch, "--server", "http://127.0.0.1:1")
    assert str(error).startswith("--server: http://127.0.0.1:1 isn't a ComfyUI that answers")


def test_jobs_without_lines_or_workflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = tmp_path / "lost"
    error = run_jobs(tmp_path, monkeypatch, "--workflow", lost)
    assert error == f"--workflow: there is no file {lost}."
    error = run(COMMANDS["lab.jobs"], monkeypatch, "run", lost, "--out", tmp_path / "out")
    assert error == f"lines: there is no file {lost}."


def test_jobs_without_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = run_jobs(tmp_path, monkeypatch, "--models", tmp_path / "lost")
    assert error == f"--models: {tmp_path / 'lost'} is no folder."


def test_jobs_into_a_folder_of_another_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Folder(tmp_path / "out").create({"jobs": "0"})
    error = str(run_jobs(tmp_path, monkeypatch))
    assert "has pictures of another version: jobs was 0, is 1; comfyui was None, is " in error


def test_the_status_of_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = ("status", tmp_path / "lost")
    error = run(COMMANDS["lab.jobs"], monkeypatch, *lost)
    assert run(COMMANDS["lab.jobs"], monkeypatch, *lost, "--dry-run") == error
    assert error == f"{tmp_path / 'lost'} isn't a folder of pictures of lab.jobs."


def test_workers_without_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    error = run_jobs(tmp_path, monkeypatch, "--workers", 2)
    assert error == "--workers and --address need Ray: install the dependency group scale."


@pytest.fixture
def run_arguments(tmp_path: Path) -> dict[str, object]:
    """Of `run`, all sound."""
    save_drawn_set(tmp_path / "set", 2)
    return {
        "--set": tmp_path / "set",
        "--checkpoint": MODELS / "checkpoints/micro.safetensors",
        "--clip-vision": MODELS / "clip_vision/micro_vision.safetensors",
        "--adapter": MODELS / "ms_diffusion/ms_adapter_micro.safetensors",
        "--edge": 128,
        "--work": tmp_path / "work",
    }


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("--checkpoint", "no.safetensors", "--checkpoint: there is no such file."),
        ("--clip-vision", "no.safetensors", "--clip-vision: there is no such file."),
        ("--adapter", "no.safetensors", "--adapter: there is no such file."),
        ("--adapter", MODELS / "judge/judge.safetensors", "is not an adapter of MS-Diffusion"),
        ("--set", "no", "no doesn't exist."),
        ("--edge", 100, "--edge: expected a multiple of 128 up to 4096, got 100."),
        ("--edge", 2**40, "--edge: expected a multiple of 128 up to 4096, got 1099511627776."),
        ("--settings", "no.json", "--settings: no.json can't be read: No such file or directory."),
        ("--work", PAPER, f"--work: {PAPER} is no folder."),
        ("--cache", PAPER, f"--cache: {PAPER} is no folder."),
    ],
)
def test_a_run_with_one_thing_wrong(
    run_arguments: dict[str, object],
    option: str,
    value: object,
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = [x for pair in (run_arguments | {option: value}).items() for x in pair]
    said = str(run(COMMANDS["lab.training"], monkeypatch, "run", *given))
    assert sentence in said and "\n" not in said
    assert run(COMMANDS["lab.training"], monkeypatch, "run", *given, "--dry-run") == said


def test_a_gpu_that_is_too_small(
    run_arguments: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(run: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has")

    monkeypatch.setattr("lab.training.real.run.train_adapter", fail)
    given = [x for pair in run_arguments.items() for x in pair]
    error = run(COMMANDS["lab.training"], monkeypatch, "run", *given)
    assert error == "Lower micro_batch or --edge, or give --recompute: CUDA out of memory."


BAD_MODELS = {
    "garbage.safetensors": "Error while deserializing header: header too large",
    "cut.safetensors": "Error while deserializing header: incomplete metadata, file not fully cov",
    "garbage.ckpt": "It is no file of torch.save, or was cut short",
    "list.ckpt": "It holds no table of weights",
    "code.ckpt": "Weights only load failed",
    "no_unet.safetensors": "It has no UNet of theirs",
    "no_unet.ckpt": "It has no UNet of theirs",
    "no_vae.safetensors": "It has no VAE",
    "no_vision.safetensors": "It has no image encoder of CLIP's",
}


def save_bad_models(folder: Path) -> None:
    for name in ("garbage.safetensors", "garbage.ckpt"):
        (folder / name).write_bytes(bytes(range(1, 256)) * 8)
    whole = (MODELS / "checkpoints/micro.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(whole[:-1])
    torch.save([1, 2], folder / "list.ckpt")
    torch.save({"state_dict": folder}, folder / "code.ckpt")  # an object of Python's
    key = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"
    parts = {key: torch.zeros(4, 4)}, {"first_stage_model.decoder.conv_in.weight": torch.zeros(4)}
    save_file(parts[0], folder / "no_vae.safetensors")
    for name in ("no_unet", "no_vision"):
        save_file(parts[1], folder / f"{name}.safetensors")
    torch.save({"state_dict": parts[1]}, folder / "no_unet.ckpt")


@pytest.mark.parametrize("name", BAD_MODELS)
def test_a_run_with_a_bad_model(
    run_arguments: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A dry run says the same, and neither has written anything before."""
    save_bad_models(tmp_path)
    option, kind = "--checkpoint", "a checkpoint of SDXL or SD1.5"
    if name.startswith("no_vision"):
        option, kind = "--clip-vision", "CLIP's image encoder"
    given = [x for pair in (run_arguments | {option: tmp_path / name}).items() for x in pair]
    sentence = str(run(COMMANDS["lab.training"], monkeypatch, "run", *given, "--dry-run"))
    expected = f"{option}: {tmp_path / name} can't be loaded as {kind}: {BAD_MODELS[name]}"
    assert sentence.startswith(expected) and "\n" not in sentence
    assert run(COMMANDS["lab.training"], monkeypatch, "run", *given) == sentence
    assert not (tmp_path / "work").exists()


def test_an_adapter_of_another_checkpoint(
    run_arguments: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It's found before the set is encoded."""
    keys = (4, 5, 7, 8)
    block = "model.diffusion_model.input_blocks.{}.1.transformer_blocks.0.attn2.to_k.weight"
    unet = {block.format(n): torch.zeros(8, 768) for n in keys}
    other = tmp_path / "other.safetensors"
    save_file({**unet, "first_stage_model.decoder.conv_in.weight": torch.zeros(4)}, other)
    given = [x for pair in (run_arguments | {"--checkpoint": other}).items() for x in pair]
    for more in ((), ("--dry-run",)):
        sentence = str(run(COMMANDS["lab.training"], monkeypatch, "run", *given, *more))
        assert sentence.startswith("--adapter: the adapter is for another model (a text ")
        assert "the model is SD1.5 (768)" in sentence and "\n" not in sentence
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "--settings: {path}: "),
        ('{"sample": 1}', "--settings: {path}: unknown: sample; known are batch, both, "),
        ('{"scenes": 2, "seed": 1}', "--settings: {path}: unknown: scenes; known are batch, "),
        ('{"seed": 1}', "--settings: {path}: missing: batch, lr, micro_batch, samples, warmup; "),
        ("[]", "--settings: {path}: expected an object with batch, both, "),
        ({"text": 0.5, "both": 0.6}, "--settings: {path}: run: text, image and both must be at "),
        ({"grounding": None}, "--settings: {path}: run: grounding must be a finite number, got N"),
        ({"schedule": "cos"}, "--settings: {path}: run: schedule must be linear or cosine, got 'c"),
        (
            {"optimizer": "sgd"},
            "--settings: {path}: run: optimizer must be adamw or adamw8bit, got",
        ),
        ({"pictures": -1}, "--settings: {path}: run: pictures must not be negative."),
        (
            {"optimizer": "adamw8bit"},
            "--settings: {path}: bitsandbytes is missing: install the dependency group training.",
        ),
    ],
)
def test_settings_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | dict[str, object], sentence: str
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # as if it weren't installed
    path = tmp_path / "settings.json"
    if isinstance(text, dict):
        text = json.dumps({**json.loads(PAPER.read_text()), **text})
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(sentence.format(path=path))):
        read_settings(path)


def test_settings_are_read_before_a_set_is_encoded(
    run_arguments: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "settings.json").write_text("{")
    given = [x for pair in run_arguments.items() for x in pair]
    more = ("--settings", tmp_path / "settings.json")
    error = run(COMMANDS["lab.training"], monkeypatch, "run", *given, *more)
    assert str(error).startswith("--settings: ")
    assert not list(Path(str(run_arguments["--work"])).rglob("*.safetensors"))


def test_a_dry_run_of_a_training_writes_nothing(
    run_arguments: dict[str, object],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    work = Path(str(run_arguments["--work"]))
    given = ("run", *(str(x) for pair in run_arguments.items() for x in pair), "--dry-run")
    error = str(run(COMMANDS["lab.training"], monkeypatch, *given))
    assert "Of 2 samples 64 are held out for the validation, and no other" in error
    settings = work.with_name("settings.json")
    settings.write_text(json.dumps({**json.loads(PAPER.read_text()), "validation": 1}))
    capsys.readouterr()
    assert run(COMMANDS["lab.training"], monkeypatch, *given, "--settings", settings) == 0
    printed = capsys.readouterr().out
    assert "3 of the cache's files are missing" in printed
    assert (
        "Would train MS-Diffusion, 1.0 million numbers, on 1600000 samples, after 0, in steps of 64"
        in printed
    )
    assert not work.exists()
    work.mkdir()
    (work / "run.pt").write_bytes(b"no state")
    error = str(run(COMMANDS["lab.training"], monkeypatch, *given, "--settings", settings))
    assert "run.pt can't be read as the state of a stage." in error


def test_check_says_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_drawn_set(tmp_path / "set", 3)
    (tmp_path / "set" / "square_1.png").unlink()
    sheet = tmp_path / "sheet.png"
    check = ("check", tmp_path / "set", "--sheet", sheet)
    assert run(COMMANDS["lab.training"], monkeypatch, *check) == 1
    printed = capsys.readouterr().out
    assert "square_1.json: expected one picture" in printed and "2 sound samples" in printed
    assert sheet.is_file()
    sheet.unlink()
    assert run(COMMANDS["lab.training"], monkeypatch, *check, "--dry-run") == 1
    printed = capsys.readouterr().out
    assert "2 sound samples" in printed and printed.endswith("Nothing was written.\n")
    assert not sheet.exists()
    for path in (tmp_path / "lost" / "sheet.png", tmp_path / "sheet.xyz"):
        error = run(COMMANDS["lab.training"], monkeypatch, *check[:2], "--sheet", path)
        assert str(error).startswith(f"--sheet: {path} can't be written: ")


def test_scores_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for module in ("scoring", "score_files"):
        monkeypatch.delitem(sys.modules, f"lab.evaluation.{module}", raising=False)
    given = ("score", tmp_path / "lines.jsonl", "--pictures", tmp_path, "--out", tmp_path)
    error = run(COMMANDS["lab.evaluation"], monkeypatch, *given)
    assert error == "pyarrow is missing: install the dependency group evaluation."


def test_scores_of_no_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = ("score", tmp_path / "lines.jsonl", "--pictures", tmp_path, "--out", tmp_path / "out")
    error = run(COMMANDS["lab.evaluation"], monkeypatch, *given)
    assert error == f"lines: there is no file {tmp_path / 'lines.jsonl'}."
    (tmp_path / "lines.jsonl").write_text(json.dumps({"prompt": "a cat"}))
    error = run(COMMANDS["lab.evaluation"], monkeypatch, *given)
    assert error == f"{tmp_path} isn't a folder of pictures of lab.jobs."


def test_a_report_without_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for dry in ((), ("--dry-run",)):
        given = ("report", "--scores", tmp_path, *dry)
        error = run(COMMANDS["lab.evaluation"], monkeypatch, *given)
        assert str(error).startswith(f"There are no scores in {tmp_path}; expected any of msbench/")


def test_lines_that_are_wrong_leave_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, _, verb, lines, *options = save_lines(tmp_path, [{"promt": "a star"}])
    out = tmp_path / "out"
    error = run(COMMANDS["lab.jobs"], monkeypatch, verb, lines, *options, "--out", out)
    assert str(error).startswith("jobs.jsonl, line 1: unknown field 'promt'")
    assert not out.exists()


def test_progress_says_rate_and_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = iter((10.0, 10.0, 14.0, 14.5, 18.0))
    monkeypatch.setattr("lab.progress.time.monotonic", lambda: next(now))
    progress = Progress(100)
    for done in (1, 1, 3, 4, 5):
        progress.show(done, "made")
    first, *later = capsys.readouterr().out.splitlines()
    assert first == "1 of 100: made"
    assert later == [
        "3 of 100: made, 0.50/s, 0:03:14 left",
        "5 of 100: made, 0.50/s, 0:03:10 left",
    ]
