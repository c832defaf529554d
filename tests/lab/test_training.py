"""The trainer: its result depends on task and settings alone."""

import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_stage import SETTINGS, TinyTask, train

from lab import ROOT
from lab.training.config import STAGES, StageSettings
from lab.training.stages.vae import VaeTask
from lab.training.state import load_ema, load_finished, load_state, resume_state
from lab.training.trainer import Trainer, micro_batch_generator


def assert_same(first: Path, other: Path, stage: str = "tiny", tolerance: float = 0.0) -> None:
    a, b = load_finished(first, stage), load_finished(other, stage)
    for kind in ("weights", "ema"):
        weights, others = getattr(a, kind), getattr(b, kind)
        assert weights.keys() == others.keys()
        for name, value in weights.items():
            assert torch.allclose(value, others[name], rtol=0, atol=tolerance), name


def stop_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """End a run as if its minutes were over, after this many steps."""
    left = iter([False] * steps + [True])
    monkeypatch.setattr(Trainer, "_is_over", lambda self, start: next(left))


def test_it_learns(tmp_path: Path) -> None:
    longer = replace(SETTINGS, samples=1600)
    trainer = train(tmp_path, longer)
    first, last = trainer.curve[0][1], trainer.curve[-1][1]
    assert last["loss"] < 0.8 * first["loss"] and last["right"] > 0.9
    assert (tmp_path / "tiny.png").exists()


def test_two_runs_end_in_the_same_weights(tmp_path: Path) -> None:
    train(tmp_path / "first")
    train(tmp_path / "again")
    assert_same(tmp_path / "first", tmp_path / "again")


def test_another_seed_ends_in_other_weights(tmp_path: Path) -> None:
    train(tmp_path / "first")
    train(tmp_path / "other", replace(SETTINGS, seed=8))
    a, b = (load_ema(tmp_path / name, "tiny") for name in ("first", "other"))
    assert not torch.equal(a["0.weight"], b["0.weight"])


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("steps", [1, 7])
def test_a_stopped_run_goes_on_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int, schedule: str
) -> None:
    settings = replace(SETTINGS, schedule=schedule)
    train(tmp_path / "first", settings)
    with monkeypatch.context() as context:
        stop_after(steps, context)
        assert train(tmp_path / "stopped", settings).samples == steps * SETTINGS.batch
    with pytest.raises(ValueError, match=rf"has seen {8 * steps} of 96 samples. Go on with it"):
        load_ema(tmp_path / "stopped", "tiny")
    train(tmp_path / "stopped", replace(settings, minutes=10.0))  # which decide nothing
    assert_same(tmp_path / "first", tmp_path / "stopped")


def test_moments_of_8_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A number's two moments take two bytes, and what blocks of 256 share; a run learns, and goes
    on to the same weights from its file."""
    pytest.importorskip("bitsandbytes")

    class WideTask(TinyTask):
        def __init__(self, settings: StageSettings) -> None:
            super().__init__(settings)
            self.layers = torch.nn.ModuleList(
                torch.nn.Sequential(torch.nn.Linear(6, 1024), torch.nn.Linear(1024, 1))
                for _ in range(2)
            )

    def train_wide(folder: Path, optimizer: str = "adamw8bit") -> Trainer:
        settings = replace(SETTINGS, samples=480, lr=0.01, optimizer=optimizer)
        trainer = Trainer(WideTask(settings), settings, folder)
        trainer.run()
        return trainer

    whole = train_wide(tmp_path / "first")
    weight = whole.task.layers[0][0].weight
    state = whole.optimizer.state[weight]
    assert sum(v.nbytes for k, v in state.items() if k in ("state1", "state2")) == 2 * 6144
    assert sum(v.nbytes for k, v in state.items() if "absmax" in k) == 2 * 4 * 6144 / 256
    assert whole.curve[-1][1]["right"] > 0.85
    with monkeypatch.context() as context:
        stop_after(7, context)
        train_wide(tmp_path / "stopped")
    train_wide(tmp_path / "stopped")
    assert_same(tmp_path / "first", tmp_path / "stopped")
    train_wide(tmp_path / "adamw", "adamw")
    exact, coarse = (load_ema(tmp_path / name, "tiny")["0.0.weight"] for name in ("adamw", "first"))
    assert 0 < (exact - coarse).abs().max() < 0.1 * exact.abs().max()


def test_a_real_stage_that_was_stopped_goes_on_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(STAGES["vae"], samples=96, scenes=0.01)

    def train_vae(folder: Path) -> None:
        Trainer(VaeTask(settings, torch.device("cpu")), settings, folder).run()

    train_vae(tmp_path / "first")
    with monkeypatch.context() as context:
        stop_after(2, context)
        train_vae(tmp_path / "stopped")
    train_vae(tmp_path / "stopped")
    assert_same(tmp_path / "first", tmp_path / "stopped", "vae")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_after_its_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """It is saved, and goes on to the same weights."""
    train(tmp_path / "first")
    draw, before = TinyTask.draw, signal.getsignal(number)

    def draw_and_signal(self: TinyTask, g: Any, step: int) -> Any:
        if step == 4 and not trained:
            trained.append(step)
            os.kill(os.getpid(), number)  # in the first half of a step
        return draw(self, g, step)

    trained: list[int] = []
    monkeypatch.setattr(TinyTask, "draw", draw_and_signal)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped")
    assert signal.getsignal(number) == before
    assert load_state(tmp_path / "stopped", "tiny").step == 5
    train(tmp_path / "stopped")
    assert_same(tmp_path / "first", tmp_path / "stopped")


def test_a_loss_that_is_no_number_ends_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was saved before it stays."""
    with monkeypatch.context() as context:
        stop_after(3, context)
        train(tmp_path)
    forward = TinyTask.forward

    def forward_wrongly(self: TinyTask, micro_batch: Any) -> Any:
        losses = forward(self, micro_batch)
        return {**losses, "loss": losses["loss"] * float("nan")}

    monkeypatch.setattr(TinyTask, "forward", forward_wrongly)
    with pytest.raises(ValueError, match="tiny: the loss is nan after 24 samples; a lower lr may"):
        train(tmp_path)
    assert load_state(tmp_path, "tiny").samples == 24


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("samples", 1.5, "samples must be a whole number, got 1.5"),
        ("samples", True, "samples must be a whole number, got True"),
        ("batch", "8", "batch must be a whole number, got '8'"),
        ("lr", "1e-4", "lr must be a finite number, got '1e-4'"),
        ("lr", math.inf, "lr must be a finite number, got inf"),
        ("lr", -1.0, "lr must be positive"),
        ("ema_decay", 1.0, "ema_decay must be from 0 to 1, got 1.0"),
        ("seed", -1, "seed must not be negative"),
        ("seed", 2**64, "seed must be less than"),
        ("minutes", math.nan, "minutes must be a finite number, got nan"),
        ("scenes", math.nan, "scenes must be a finite number, got nan"),
    ],
)
def test_settings_that_make_no_sense(name: str, value: object, sentence: str) -> None:
    with pytest.raises(ValueError, match=f"tiny: {sentence}"):
        replace(SETTINGS, **{name: value})


def test_minutes_stop_a_run(tmp_path: Path) -> None:
    assert train(tmp_path, replace(SETTINGS, minutes=0.0)).samples == 0
    assert not load_state(tmp_path, "tiny").finished


def test_a_finished_stage_stays_as_it_is(tmp_path: Path) -> None:
    train(tmp_path)
    before = load_finished(tmp_path, "tiny")
    train(tmp_path)
    after = load_finished(tmp_path, "tiny")
    assert (after.step, after.samples) == (before.step, before.samples) == (12, 96)
    assert torch.equal(after.weights["0.weight"], before.weights["0.weight"])


def test_two_processes_are_one(tmp_path: Path) -> None:
    """Up to the rounding of sums. They share the micro batches of each step, and a step in which
    one of two layers isn't used."""
    train(tmp_path / "one")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run(
        [sys.executable, *launch, str(Path(__file__).parent / "tiny_stage.py"), tmp_path / "two"],
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert_same(tmp_path / "one", tmp_path / "two", tolerance=1e-5)


def test_a_batch_in_parts_is_the_whole_batch(tmp_path: Path) -> None:
    """The gradients of micro batches are averaged, however large the batch."""
    settings = replace(SETTINGS, samples=8, lr=1.0, warmup=0, weight_decay=0.0)
    train(tmp_path, settings)
    task = TinyTask(settings)
    optimizer = torch.optim.AdamW(
        task.parameters(), lr=1.0, betas=(0.9, 0.99), weight_decay=0.0, fused=True
    )
    parts = [task.draw(micro_batch_generator(settings.seed, 0, n), 0)[0] for n in range(2)]
    task((torch.cat(parts), 0))["loss"].backward()
    torch.nn.utils.clip_grad_norm_(task.parameters(), 1.0)
    optimizer.step()
    trained = load_finished(tmp_path, "tiny").weights
    for name, value in task.trained.state_dict().items():
        assert torch.allclose(value, trained[name], atol=1e-5), name


def test_other_settings_are_refused(tmp_path: Path) -> None:
    train(tmp_path)
    other = replace(SETTINGS, lr=0.1, samples=200)
    with pytest.raises(ValueError, match=r"samples is 200, was 96, lr is 0.1, was 0.05"):
        train(tmp_path, other)


def test_a_state_of_an_earlier_version_is_refused(tmp_path: Path) -> None:
    """It counted minutes."""
    old = {"weights": {}, "average": {}, "progress": (3, 6.0, 48, []), "metadata": {}}
    torch.save(old, tmp_path / "tiny.pt")
    with pytest.raises(ValueError, match="of another version of the trainer"):
        resume_state(tmp_path, SETTINGS)


@pytest.mark.parametrize("content", [b"", b"no state", b"hello world", bytes(range(256))])
def test_what_is_no_state_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tiny.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"tiny.pt can't be read as the state of a stage"):
        resume_state(tmp_path, SETTINGS)
    with pytest.raises(FileNotFoundError, match="train --stage vae"):
        load_ema(tmp_path, "vae")


def test_settings_go_into_every_file(tmp_path: Path) -> None:
    train(tmp_path)
    state = load_state(tmp_path, "tiny")
    assert StageSettings(**state.settings) == SETTINGS
    metadata = state.metadata()
    assert (metadata["tiny.samples"], metadata["tiny.steps"]) == ("96", "12")
    assert StageSettings(**json.loads(metadata["tiny.settings"])) == SETTINGS


@pytest.mark.parametrize("stage", STAGES)
def test_the_learning_rate_follows_the_samples(stage: str) -> None:
    settings = STAGES[stage]
    assert settings.samples % settings.batch == 0
    rates = [settings.learning_rate(n) for n in range(0, settings.samples, settings.batch)]
    assert max(rates) <= settings.lr and rates[0] == pytest.approx(settings.lr / 100)
    assert rates[-1] == pytest.approx(
        settings.lr * max(0.02, settings.batch / settings.samples / 0.6)
    )
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1]) and rates[top:] == sorted(rates[top:])[::-1]


def test_cosine() -> None:
    """A warm-up of 200 samples, then half a cosine over the other 800."""
    settings = StageSettings("s", 1000, 10, 10, lr=2.0, warmup=200, seed=0, schedule="cosine")
    expected = {0: 0.1, 90: 1.0, 190: 2.0, 200: 2.0, 400: 1 + 0.5**0.5, 600: 1.0, 800: 1 - 0.5**0.5}
    for samples, lr in expected.items():
        assert settings.learning_rate(samples) == pytest.approx(lr), samples
    assert 0 < settings.learning_rate(990) < 0.001
    without = replace(settings, warmup=0)
    assert [without.learning_rate(n) for n in (0, 500)] == pytest.approx([2.0, 1.0])


def test_what_a_state_lacks_was_as_it_is_by_default() -> None:
    """An option that came later doesn't refuse it, unless it's used."""
    old = SETTINGS.to_dict()
    del old["schedule"]
    assert SETTINGS.differences(old) == []
    other = replace(SETTINGS, schedule="cosine")
    assert other.differences(old) == ["schedule is cosine, was linear"]


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="micro batches of 3"):
        replace(SETTINGS, micro_batch=3)
    with pytest.raises(ValueError, match="samples must be positive"):
        replace(SETTINGS, samples=0)
    with pytest.raises(ValueError, match="warmup must not be negative"):
        replace(SETTINGS, warmup=-1)
    with pytest.raises(ValueError, match="schedule must be linear or cosine, got 'cos'"):
        replace(SETTINGS, schedule="cos")
