"""A warning where the pack's folder has a name that the front end can't load from."""

from typing import Any

import pytest


@pytest.mark.parametrize("name", ["ms diffusion", "ms%20d", "ms#d", "ms?", "é", "a.b", "a@1.0"])
def test_a_folder_name_that_can_not_be_served(pack: Any, caplog: Any, name: str) -> None:
    pack.module("nodes.folder_name").warn_of_folder_name(name)
    (text,) = caplog.messages
    assert repr(name) in text and "Rename it" in text


@pytest.mark.parametrize("name", ["ms_diffusion", "ComfyUI-MS-Diffusion", "a+b(1)"])
def test_a_folder_name_that_can_be_served(pack: Any, caplog: Any, name: str) -> None:
    pack.module("nodes.folder_name").warn_of_folder_name(name)
    assert not caplog.messages
