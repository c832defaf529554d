"""Adapter files: valid ones of every form, and each fault with its message."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from msd_core import GroundingResampler, MSAdapter
from msd_core.adapters.family import Needs
from msd_core.adapters.projections import Projection
from msd_core.adapters.resampler import ResamplerSizes
from msd_core.checkpoint import load_adapter
from msd_core.convert import convert, main

WIDTHS = (32, 64, 64)


@pytest.fixture(scope="module")
def adapter():
    torch.manual_seed(0)
    sizes = ResamplerSizes(
        dim=32, depth=2, dim_head=16, heads=4, num_queries=8, embedding_dim=24, output_dim=40,
        ff_mult=2, phrase_embeddings_dim=20,
    )  # fmt: skip
    pairs = {
        str(2 * n + 1): Projection(40, width, torch.nn, None) for n, width in enumerate(WIDTHS)
    }
    return MSAdapter(GroundingResampler(sizes), pairs, torch.randn(1, 4, 40)).requires_grad_(False)


def save(adapter, path):
    """As safetensors, in the types that it has."""
    save_file(adapter.state_dict(), path, metadata=adapter.metadata())


def nested(flat):
    """The released form: three parts."""
    parts = {"image_proj": {}, "ms_adapter": {}}
    for key, value in flat.items():
        part, _, rest = key.partition(".")
        if rest:
            parts[part][rest] = value
        else:
            parts[part] = torch.nn.Parameter(value, requires_grad=False)
    return parts


@pytest.fixture
def flat(adapter):
    return {key: value.clone() for key, value in adapter.state_dict().items()}


@pytest.fixture
def released(flat, tmp_path):
    torch.save(nested(flat), tmp_path / "ms_adapter.bin")
    return tmp_path / "ms_adapter.bin"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_reads_both_forms_in_every_type(flat, tmp_path, dtype, suffix):
    path = tmp_path / f"adapter{suffix}"
    typed = {key: value.to(dtype) for key, value in flat.items()}
    torch.save(nested(typed), path) if suffix == ".bin" else save_file(typed, path)
    loaded = load_adapter(path)
    assert {p.dtype for p in loaded.parameters()} == {dtype}
    assert all(torch.equal(value, typed[key]) for key, value in loaded.state_dict().items())


def test_sizes_come_from_the_shapes(adapter, released):
    loaded = load_adapter(released)
    assert loaded.resampler.sizes == adapter.resampler.sizes
    assert loaded.needs == Needs("hidden_states", 24, "another encoder", "pooled", 20, True)
    assert loaded.layers == [(width, 40) for width in WIDTHS]
    assert [p.to_v_ip.out_features for p in loaded.projections] == list(WIDTHS)
    assert loaded.dummy_image_tokens.shape == (1, 4, 40)
    assert len(loaded.resampler.layers) == 2


def test_nested_and_flat_weights_are_the_same(flat):
    ours, theirs = (MSAdapter.from_state_dict(sd) for sd in (flat, nested(flat)))
    assert all(map(torch.equal, ours.state_dict().values(), theirs.state_dict().values()))


def test_saved_file_gives_the_same_tokens(adapter, released, tmp_path):
    save(adapter, tmp_path / "a.safetensors")
    loaded = load_adapter(tmp_path / "a.safetensors")
    assert loaded.head_width == 16
    inputs = (torch.randn(2, 5, 24), torch.randn(2, 20), torch.rand(2, 4), torch.tensor([0, 1]) > 0)
    assert torch.equal(loaded.resampler(*inputs), adapter.resampler(*inputs))
    tokens = torch.randn(1, 16, 40)
    for ours, theirs in zip(
        loaded.keys_and_values(tokens), adapter.keys_and_values(tokens), strict=True
    ):
        assert all(map(torch.equal, ours, theirs))


class TestDigest:
    """Shows whether two files hold the same adapter."""

    def test_it_is_that_of_the_weights_whatever_the_file(self, flat, released, tmp_path):
        first = load_adapter(released)
        assert first.digest and load_adapter(released).digest == first.digest
        convert(released, tmp_path / "converted.safetensors")
        save(first, tmp_path / "saved.safetensors")
        save_file(dict(reversed(flat.items())), tmp_path / "of_others.safetensors")
        for name in ("converted", "saved", "of_others"):
            assert load_adapter(tmp_path / f"{name}.safetensors").digest == first.digest, name

    def test_casts_after_loading_leave_it(self, released):
        adapter = load_adapter(released)
        before = adapter.digest
        assert adapter.half().to("meta").digest == before

    def test_any_other_value_type_or_head_width_changes_it(self, flat, adapter):
        digests = [MSAdapter.from_state_dict(flat, adapter.metadata()).digest]
        for key, value in flat.items():
            changed = value.clone()
            changed.view(-1)[-1] = torch.nextafter(changed.view(-1)[-1], torch.tensor(9.0))
            digests.append(MSAdapter.from_state_dict({**flat, key: changed}).digest)
        halves = {key: value.bfloat16() for key, value in flat.items()}
        digests.append(MSAdapter.from_state_dict(halves).digest)
        narrower = {**adapter.metadata(), "resampler_head_width": "8"}
        digests.append(MSAdapter.from_state_dict(flat, narrower).digest)
        assert len(set(digests)) == len(digests)

    def test_an_adapter_built_by_hand_has_none(self, adapter):
        assert adapter.digest is None


FAULTS = {
    "missing key": (
        lambda sd: sd.pop("image_proj.layers.1.0.to_kv.weight"),
        "'image_proj.layers.1.0.to_kv.weight' is missing",
    ),
    "missing layer": (
        lambda sd: sd.pop("ms_adapter.3.to_k_ip.weight"),
        "'ms_adapter.3.to_k_ip.weight' is missing",
    ),
    "no layers": (
        lambda sd: [sd.pop(key) for key in list(sd) if key.startswith("ms_adapter")],
        "it has no 'ms_adapter' or 'ip_adapter' weights",
    ),
    "missing value": (
        lambda sd: sd.pop("ms_adapter.5.to_v_ip.weight"),
        "'ms_adapter.5.to_v_ip.weight' is missing",
    ),
    "missing dummy": (lambda sd: sd.pop("dummy_image_tokens"), "'dummy_image_tokens' is missing"),
    "extra key": (
        lambda sd: sd.update({"ms_adapter.3.bias": torch.ones(3)}),
        "'ms_adapter.3.bias' is none",
    ),
    "even number": (
        lambda sd: sd.update({"ms_adapter.4.to_k_ip.weight": torch.ones(32, 40)}),
        "'ms_adapter.4.to_k_ip.weight' is none",
    ),
    "wrong shape": (
        lambda sd: sd.update({"image_proj.proj_in.bias": torch.ones(7)}),
        r"'image_proj.proj_in.bias' has shape \(7,\), expected \(32,\)",
    ),
    "other width": (
        lambda sd: sd.update({"ms_adapter.1.to_v_ip.weight": torch.ones(32, 41)}),
        r"'ms_adapter.1.to_v_ip.weight' has shape \(32, 41\), expected \(32, 40\)",
    ),
    "flat weight": (
        lambda sd: sd.update({"image_proj.proj_in.weight": torch.ones(7)}),
        r"'image_proj.proj_in.weight' has shape \(7,\), expected 2 sizes",
    ),
    "flat projection": (
        lambda sd: sd.update({"ms_adapter.3.to_k_ip.weight": torch.ones(7)}),
        r"'ms_adapter.3.to_k_ip.weight' has shape \(7,\), expected 2 sizes",
    ),
    "odd layer": (
        lambda sd: sd.update({"image_proj.layers.x.y": torch.ones(7)}),
        "'image_proj.layers.x.y' is none",
    ),
    "NaN": (
        lambda sd: sd["ms_adapter.3.to_k_ip.weight"].view(-1)[5:6].fill_(float("nan")),
        "'ms_adapter.3.to_k_ip.weight' holds values that are not numbers",
    ),
    "infinity": (
        lambda sd: sd["image_proj.grounding_latents"].view(-1)[5:6].fill_(float("-inf")),
        "'image_proj.grounding_latents' holds values that are not numbers",
    ),
    "whole numbers": (
        lambda sd: sd.update({"image_proj.proj_in.bias": torch.ones(32, dtype=torch.int64)}),
        "'image_proj.proj_in.bias' is no weight but torch.int64",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_faults_inside_name_file_and_key(flat, tmp_path, fault, suffix):
    change, message = FAULTS[fault]
    change(flat)
    path = tmp_path / f"adapter{suffix}"
    torch.save(nested(flat), path) if suffix == ".bin" else save_file(flat, path)
    with pytest.raises(ValueError, match=message) as caught:
        load_adapter(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    if suffix == ".bin":
        with pytest.raises(ValueError, match=message):
            convert(path, tmp_path / "out.safetensors")
        assert not (tmp_path / "out.safetensors").exists()


OTHERS = {
    "a whole checkpoint": {"model.diffusion_model.out.0.weight": torch.ones(2)},
    "a Flux model": {"double_blocks.0.img_attn.qkv.weight": torch.ones(2)},
    "a PhotoMaker": {"id_encoder": {"a": torch.ones(2)}},
}


@pytest.mark.parametrize("family", OTHERS)
def test_other_families_are_named(tmp_path, family):
    torch.save(OTHERS[family], tmp_path / "x.bin")
    with pytest.raises(
        ValueError, match=f"not an adapter of MS-Diffusion.*: it looks like {family}"
    ):
        load_adapter(tmp_path / "x.bin")


class Attack:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_old_form_of_pickle(flat, tmp_path):
    path = tmp_path / "old.bin"
    torch.save(nested(flat), path, _use_new_zipfile_serialization=False)
    assert len(load_adapter(path).layers) == 3
    with pytest.raises(ValueError, match=r"old.bin is of PyTorch's form before 1.6"):
        convert(path, tmp_path / "new.safetensors")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_code_in_a_pickle_is_not_run(tmp_path):
    trace = tmp_path / "trace"
    for name, content in (("a.bin", Attack(trace)), ("b.bin", {"ms_adapter": Attack(trace)})):
        torch.save(content, tmp_path / name)
        with pytest.raises(ValueError, match="was not run"):
            load_adapter(tmp_path / name)
    (tmp_path / "c.bin").write_bytes(pickle.dumps(Attack(trace)))
    with pytest.raises(ValueError):
        load_adapter(tmp_path / "c.bin")
    assert not trace.exists()


@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_broken_and_missing_files(adapter, released, tmp_path, suffix):
    sound = released
    if suffix == ".safetensors":
        sound = tmp_path / "sound.safetensors"
        save(adapter, sound)
    content = sound.read_bytes()
    faults = {
        "empty": b"",
        "short": content[: len(content) // 2],
        "text": b"version https://git-lfs",
    }
    if suffix == ".safetensors":
        faults["lying header"] = (10**15).to_bytes(8, "little") + content[8:]
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        header["dummy_image_tokens"]["data_offsets"][1] += 10**9
        encoded = json.dumps(header).encode()
        faults["lying sizes"] = len(encoded).to_bytes(8, "little") + encoded
    for name, data in faults.items():
        path = tmp_path / f"{name}{suffix}"
        path.write_bytes(data)
        with pytest.raises(ValueError, match=name) as caught:
            load_adapter(path)
        assert str(path) in str(caught.value), name
    for path in (tmp_path / f"missing{suffix}", tmp_path):
        with pytest.raises(FileNotFoundError, match=str(path)):
            load_adapter(path)


def test_converter(released, tmp_path, monkeypatch, capsys):
    target = tmp_path / "out.safetensors"

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["convert", *map(str, arguments)])
        main()

    run(released, target)
    sound = load_adapter(released).state_dict()
    written = load_file(target)
    assert sound.keys() == written.keys()
    assert all(torch.equal(value, written[key]) for key, value in sound.items())
    load_adapter(target)

    before = target.read_bytes()
    with pytest.raises(SystemExit):
        run(released, target)
    assert "exists; it is not overwritten" in capsys.readouterr().err
    assert target.read_bytes() == before
    with pytest.raises(SystemExit):
        run(tmp_path / "nothing.bin", tmp_path / "other.safetensors")
    assert "nothing.bin is not a file" in capsys.readouterr().err
    assert not (tmp_path / "other.safetensors").exists()


def test_converter_holds_one_tensor_at_a_time(flat, tmp_path):
    wide = {key: value for key, value in flat.items() if not key.startswith("ms_adapter")}
    for number in range(1, 9, 2):  # 4 pairs, 10 MB each half: 84 MB
        for name in ("to_k_ip", "to_v_ip"):
            wide[f"ms_adapter.{number}.{name}.weight"] = torch.zeros(65536, 40)
    torch.save(nested(wide), tmp_path / "wide.bin")
    del wide
    # Run from its command line, in a process of its own that measures itself.
    measured = subprocess.run(
        [
            sys.executable,
            "-c",
            "import resource, sys; from msd_core.convert import main\n"
            "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
            "before = peak(); main(); print(peak() - before)\n"
            "assert 'torch._dynamo' not in sys.modules, 'its import takes seconds'",
            str(tmp_path / "wide.bin"),
            str(tmp_path / "wide.safetensors"),
        ],
        capture_output=True, text=True, cwd=Path(__file__).parents[2], check=True,
    )  # fmt: skip
    assert (tmp_path / "wide.safetensors").stat().st_size > 83e6
    assert int(measured.stdout.split()[-1]) < 30_000, "kilobytes over the start"
