"""MSD Load Adapter: which files it lists, finds and notices."""

from pathlib import Path
from typing import Any

import pytest


def test_lists_files_of_other_packs_by_name(pack: Any, tmp_path: Any) -> None:
    import folder_paths

    module = pack.module("nodes.load_adapter")
    folder_paths.add_model_folder_path("photomaker", str(tmp_path))
    for name in ("ms_adapter.bin", "photomaker-v1.bin"):
        (tmp_path / name).write_bytes(b"")
    folder_paths.filename_list_cache.clear()
    assert "ms_adapter.bin" in module._adapter_files()
    assert "photomaker-v1.bin" not in module._adapter_files()
    assert module._adapter_path("ms_adapter.bin") == str(tmp_path / "ms_adapter.bin")


@pytest.mark.parametrize("kind", [list, tuple, set, frozenset])
@pytest.mark.parametrize("paths", [list, tuple])
def test_folder_of_another_pack(
    pack: Any, tmp_path: Path, monkeypatch: Any, kind: Any, paths: Any
) -> None:
    """It has already registered the same name, in its own way."""
    import folder_paths

    theirs = (paths([str(tmp_path)]), kind([".ckpt"]))
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "ms_diffusion", theirs)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    pack.module("nodes.load_adapter")._register_folders()
    for name in ("a.bin", "b.ckpt", "c.txt"):
        (tmp_path / name).write_bytes(b"")
    names = pack.module("nodes.load_adapter")._adapter_files()
    assert {"a.bin", "b.ckpt"} <= set(names) and "c.txt" not in names
    folder_paths.add_model_folder_path("ms_diffusion", str(tmp_path / "more"))
    assert theirs == (paths([str(tmp_path)]), kind([".ckpt"]))


@pytest.mark.parametrize("name", ["nothing.bin", "../../secret.bin", "/etc/passwd"])
def test_names_outside_the_folders_are_not_found(pack: Any, name: str) -> None:
    with pytest.raises(FileNotFoundError, match="adapter: there is no"):
        pack.MSDLoadAdapter.execute(name)


def test_a_replaced_file_is_noticed(pack: Any, adapters: Any, tmp_path: Any) -> None:
    import folder_paths

    folder_paths.add_model_folder_path("ms_diffusion", str(tmp_path))
    path = tmp_path / "replaced.bin"
    path.write_bytes(b"one")
    before = pack.MSDLoadAdapter.fingerprint_inputs("replaced.bin")
    path.write_bytes(b"other")
    assert pack.MSDLoadAdapter.fingerprint_inputs("replaced.bin") != before


def test_the_host_owns_the_adapter(adapters: Any) -> None:
    import comfy.model_management
    import comfy.model_patcher

    adapter = adapters["tiny"]
    assert isinstance(adapter, comfy.model_patcher.ModelPatcher)
    comfy.model_management.load_model_gpu(adapter)
    assert adapter.model_size() == sum(p.nbytes for p in adapter.model.parameters())
