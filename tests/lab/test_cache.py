"""The cache of encoded samples: what doesn't fit is made again, never used."""

import ast
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from drawn_set import save_drawn_set

from lab import ROOT
from lab.jobs.hashes import Hashes
from lab.training.real import cache as cache_module
from lab.training.real import encoders as encoders_module
from lab.training.real.cache import Cache, EncodingWorker
from lab.training.real.encoders import CODE, Encoders
from lab.training.real.training_set import Sample, read_set
from msd_core.adapters.family import Needs

NEEDS = Needs("hidden_states", 8, "an encoder", "pooled", 8, True)
SHOWN = {"nodes/node_text.py", "msd_core/collage.py"}  # in the user interface alone
TYPES = {"msd_core/attention/subjects.py"}


def code_files() -> set[str]:
    """Those that the key is of, in the repository."""
    paths = [ROOT / name for name in CODE]
    files = [file for p in paths for file in (p.glob("*.py") if p.is_dir() else [p])]
    return {file.relative_to(ROOT).as_posix() for file in files}


def test_the_key_is_of_all_code_that_encodes() -> None:
    """Of each module of the pack that its files import too."""
    imported = set()
    for name in code_files():
        for node in ast.walk(ast.parse((ROOT / name).read_text())):
            if not isinstance(node, ast.ImportFrom) or not node.module:
                continue
            base = (ROOT / name).parents[node.level - 1] if node.level else ROOT
            path = base.joinpath(*node.module.split(".")).with_suffix(".py")
            if path.exists() and path.is_relative_to(ROOT):
                imported.add(path.relative_to(ROOT).as_posix())
    ours = {name for name in imported if name.startswith(("nodes", "msd_core", "lab/training"))}
    assert ours - SHOWN - TYPES <= code_files()


class World:
    """All that a key is of, where it can be changed: a copy of the code, a host, files, a set."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.code, self.set = folder / "code", folder / "set"
        for name in code_files():
            (self.code / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, self.code / name)
        self.host = folder / "host" / "comfyui_version.py"
        self.host.parent.mkdir()
        self.checkpoint, self.vision = folder / "checkpoint", folder / "vision"
        for path in (self.host, self.checkpoint, self.vision):
            path.write_text("1")
        save_drawn_set(self.set, 1)
        self.edge = 128
        self.needs = NEEDS
        monkeypatch.setattr(encoders_module, "ROOT", self.code)
        monkeypatch.setattr(encoders_module, "host_folder", lambda: self.host.parent)

    def keys(self) -> list[str]:
        """Of its sample, and of what stands for no reference."""
        files = self.checkpoint, self.vision
        encoders = Encoders(*files, "MS-Diffusion", self.needs, self.edge)
        cache = Cache(self.set, encoders.key(Hashes(None)))
        return [cache.key(sample) for sample in (*read_set(self.set), None)]


def test_what_decides_the_encoded_sample_is_in_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path, monkeypatch)
    seen = world.keys()
    assert world.keys() == seen  # the same gives the same
    code = [world.code / name for name in sorted(code_files())]
    for path in (*code, world.host, world.checkpoint, world.vision):
        with path.open("a") as file:
            file.write("\n# changed")
        keys = world.keys()
        assert not {*keys} & {*seen}, path
        seen += keys
    world.edge = 256
    assert not {*world.keys()} & {*seen}
    world.needs = replace(NEEDS, phrase="tokens")
    assert not {*world.keys()} & {*seen}


def test_each_part_of_a_sample_is_in_its_digest(tmp_path: Path) -> None:
    save_drawn_set(tmp_path, 2)
    sample, other = read_set(tmp_path)
    subject = replace(sample.subjects[0], phrase="cat")
    sample = replace(sample, caption="a red", subjects=(subject,))

    def changed(**subjects: object) -> Sample:
        return replace(sample, subjects=(replace(subject, **subjects),))

    samples = [
        sample,
        replace(sample, picture=other.picture),
        replace(sample, caption="a redc", subjects=changed(phrase="at").subjects),
        replace(sample, subjects=(subject, subject)),
        changed(box=(0.0, 0.0, 0.5, 0.5)),
        changed(reference=other.subjects[0].reference),
    ]
    assert len({each.digest for each in samples}) == len(samples)
    assert replace(sample, name="moved").digest == sample.digest


def test_a_file_that_was_cut_short_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache(tmp_path, "key")
    key, encoded = cache.key(None), {"latent": torch.ones(4, 8, 8)}
    assert not cache.has(key)
    written = []
    save_file = cache_module.save_file

    def save_and_note(tensors: dict[str, torch.Tensor], path: Path) -> None:
        save_file(tensors, path)
        written.append(path.name)

    monkeypatch.setattr(cache_module, "save_file", save_and_note)
    for name in ("one@7", "other@7"):  # two machines, of one process number
        monkeypatch.setattr(cache_module, "process_name", lambda name=name: name)
        cache.save(key, encoded)
    assert len(set(written)) == 2
    path = cache.path(key)
    content = path.read_bytes()
    assert cache.has(key) and list(path.parent.iterdir()) == [path]
    for length in (0, 4, 60, len(content) - 1):
        path.write_bytes(content[:length])
        assert not cache.has(key)
    cache.save(key, encoded)
    assert cache.has(key) and torch.equal(cache.load(key)["latent"], encoded["latent"])


def test_a_file_that_is_damaged_while_it_is_trained_on(tmp_path: Path) -> None:
    cache = Cache(tmp_path, "key")
    key = cache.key(None)
    cache.save(key, {"latent": torch.ones(4)})
    cache.path(key).write_bytes(cache.path(key).read_bytes()[:-1])
    with pytest.raises(ValueError, match=rf"{key}.safetensors was damaged meanwhile: "):
        cache.load(key)


def test_a_cache_that_cant_be_written_ends_the_run(tmp_path: Path) -> None:
    """Not only its sample, as one does that can't be encoded."""

    class Blank:
        def blank(self) -> dict[str, torch.Tensor]:
            shutil.rmtree(tmp_path / "cache")
            (tmp_path / "cache").touch()
            return {"latent": torch.ones(4)}

    (tmp_path / "cache").mkdir()
    encoders: Any = Blank()
    worker = EncodingWorker(Cache(tmp_path / "cache", "key"), encoders)
    with pytest.raises(OSError, match="cache"):
        worker.make((worker.cache.key(None), None))


def test_safetensors_errors_are_the_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "process_name", lambda: "x" * 300)  # too long a name
    with pytest.raises(OSError, match=r"\.safetensors can't be written: "):
        Cache(tmp_path, "key").save("ab", {"latent": torch.ones(4)})
