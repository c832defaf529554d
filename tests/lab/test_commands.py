"""The commands of the lab: help, and a sentence instead of a traceback."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import lab.demo
import lab.evaluation.__main__
import lab.templates
import lab.training.__main__

COMMANDS = {
    "lab.demo": lab.demo.main,
    "lab.evaluation": lab.evaluation.__main__.main,
    "lab.templates": lab.templates.main,
    "lab.training": lab.training.__main__.main,
}


def run(main: Callable[[], None], monkeypatch: pytest.MonkeyPatch, *arguments: object) -> object:
    """What the command exits with."""
    monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        main()
    return caught.value.code


@pytest.mark.parametrize("name", COMMANDS)
def test_help(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(COMMANDS[name], monkeypatch, "--help") == 0
    assert f"usage: python -m {name}" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["lab.demo", "lab.templates"])
def test_without_a_host(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    assert str(run(COMMANDS[name], monkeypatch)).startswith("COMFYUI_PATH is None; it must name")


def test_report_without_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = run(COMMANDS["lab.evaluation"], monkeypatch, "report", "--work", tmp_path)
    assert f"{tmp_path} has no pictures of ['masks']. Sample them first" in str(error)


def test_a_stage_before_one_that_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = ("train", "--stage", "judge", "--work", tmp_path)
    error = run(COMMANDS["lab.training"], monkeypatch, *train)
    assert "vae.pt doesn't exist. Train it first: python -m lab.training train" in str(error)


def test_settings_that_make_no_sense(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = ("train", "--stage", "vae", "--samples", 0, "--work", tmp_path)
    assert run(COMMANDS["lab.training"], monkeypatch, *train) == "vae: samples must be positive."
