"""Conditionings and short sampling runs of the tiny UNet, as the host does them."""

from typing import Any

import comfy.samplers
import torch
from comfy.patcher_extension import add_wrapper_with_key

LEFT, RIGHT = (0.0, 0.25, 0.4, 0.75), (0.6, 0.25, 1.0, 0.75)
EVERYWHERE = (0.0, 0.0, 1.0, 1.0)
FAMILIES = ("MS-Diffusion", "IP-Adapter", "MIP-Adapter")  # of adapters
IN_BOXES = FAMILIES[:2]  # the third's references follow their names
SIGMAS = torch.tensor([8.0, 3.0, 1.0, 0.0])


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def assert_same(first: torch.Tensor, second: torch.Tensor, tolerance: float = 2e-4) -> None:
    """Equal but for rounding, which guidance and the latent's scale enlarge; tolerance: relative to
    the largest value."""
    assert (first - second).abs().max() <= tolerance * first.abs().max()


def differ(first: torch.Tensor, second: torch.Tensor) -> bool:
    return bool((first - second).abs().max() > 1e-3 * first.abs().max())


def cond(seed: int, tokens: int = 77, **more: Any) -> list[Any]:
    """One conditioning; its text is recognised by its first channel."""
    text = noise(seed, 1, tokens, 64)
    text[..., 0] = seed / 64
    return [[text, {"pooled_output": noise(seed + 1, 1, 1280), **more}]]


POSITIVE, NEGATIVE, MIDDLE = 10, 20, 30


def guide(model: Any, positive: Any = None, negative: Any = None, cfg: float = 7.5) -> Any:
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive or cond(POSITIVE), negative or cond(NEGATIVE))
    guider.set_cfg(cfg)
    return guider


def sample(
    guider: Any, height: int = 16, width: int = 16, batch: int = 1, seed: int = 1,
    sampler: str = "euler", sigmas: torch.Tensor = SIGMAS, latent: Any = None, **more: Any,
) -> torch.Tensor:  # fmt: skip
    start = noise(seed, batch, 4, height, width)
    # A copy of the sigmas: UniPC writes into them.
    return guider.sample(
        start, torch.zeros_like(start) if latent is None else latent,
        comfy.samplers.sampler_object(sampler), sigmas.clone(),
        disable_pbar=True, seed=seed, **more,
    )  # fmt: skip


def patch_of(model: Any) -> Any:
    """What MSD Apply has put on a model."""
    wrappers = model.model_options["transformer_options"]["wrappers"]["apply_model"]
    return wrappers["ms_diffusion"][0].__self__


def with_watch(model: Any, *positive_seeds: int) -> tuple[Any, list[tuple[list[bool], list[bool]]]]:
    """A clone that, at each call of the UNet, notes which rows our patch changed and which rows'
    text is a positive prompt's."""
    watched, calls = model.clone(), []
    firsts = [seed / 64 for seed in positive_seeds]

    def watch(executor: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        options = {**args[5], "patches_replace": {}}
        control = {k: list(v) for k, v in (args[4] or {}).items()} or None  # the UNet empties it
        out = executor(*args, **kwargs)
        bare = executor(*args[:4], control, options, **kwargs)
        changed = (out != bare).flatten(1).any(1).tolist()
        calls.append((changed, [row[0, 0].item() in firsts for row in args[2]]))
        return out

    add_wrapper_with_key("diffusion_model", "watch", watch, watched.model_options, True)
    return watched, calls


def assert_only_positive_rows_changed(calls: list[tuple[list[bool], list[bool]]]) -> None:
    assert calls and any(any(positive) for _, positive in calls)
    for changed, positive in calls:
        assert changed == positive


def assert_rows_changed(
    calls: list[tuple[list[bool], list[bool]]], family: str, alone: bool = True
) -> None:
    """The positive rows by MS-Diffusion, all rows by the others; but where these aren't alone, none
    of the calls that someone else makes inside the run."""
    if family == "MS-Diffusion":
        assert_only_positive_rows_changed(calls)
        return
    assert any(all(changed) for changed, _ in calls)
    for changed, positive in calls:
        assert all(changed) or not (alone or any(changed) or any(positive))
