"""Rows in any order, and parts of the latent: packs that hand the model what the host has batched
row by row, tile by tile or window by window."""

from collections.abc import Callable
from typing import Any

import comfy.samplers
import pytest
import torch
from sampling import (
    FAMILIES,
    LEFT,
    MIDDLE,
    NEGATIVE,
    POSITIVE,
    RIGHT,
    assert_only_positive_rows_changed,
    assert_rows_changed,
    assert_same,
    cond,
    differ,
    guide,
    noise,
    sample,
    with_watch,
)

from lab.host.in_process import run_node
from msd_core.coverage import box_coverage

Wrapper = Callable[[Callable[..., torch.Tensor], dict[str, Any]], torch.Tensor]


def with_function(model: Any, wrapper: Wrapper) -> Any:
    wrapped = model.clone()
    wrapped.set_model_unet_function_wrapper(wrapper)
    return wrapped


def rows_of(c: dict[str, Any], x: torch.Tensor, rows: Any) -> dict[str, Any]:
    """What belongs to some rows of a latent: every tensor that has as many."""
    return {
        k: v[rows] if isinstance(v, torch.Tensor) and len(v) == len(x) else v for k, v in c.items()
    }


def one_by_one(apply_model: Any, args: dict[str, Any]) -> torch.Tensor:
    x, t, c = args["input"], args["timestep"], args["c"]
    parts = ([n] for n in range(len(x)))
    return torch.cat([apply_model(x[n], t[n], **rows_of(c, x, n)) for n in parts])


def reversed_rows(apply_model: Any, args: dict[str, Any]) -> torch.Tensor:
    x, t, c = args["input"], args["timestep"], args["c"]
    order = list(reversed(range(len(x))))
    return apply_model(x[order], t[order], **rows_of(c, x, order))[order]


def positives_alone(apply_model: Any, args: dict[str, Any]) -> torch.Tensor:
    """The halves in two calls, the second first, as to another device."""
    x, t, c = args["input"], args["timestep"], args["c"]
    half = len(x) // 2
    later = apply_model(x[half:], t[half:], **rows_of(c, x, slice(half, None)))
    return torch.cat((apply_model(x[:half], t[:half], **rows_of(c, x, slice(half))), later))


class Tiles:
    """As ComfyUI-TiledDiffusion does it: tiles in one batch, [tile 1's rows, tile 2's rows, ...];
    tensors of the latent's rank are cropped, others are repeated."""

    def __init__(self, height: int, width: int, together: int = 2) -> None:
        self.height, self.width, self.together = height, width, together

    def __call__(self, apply_model: Any, args: dict[str, Any]) -> torch.Tensor:
        x, t, c = args["input"], args["timestep"], args["c"]
        out = torch.zeros_like(x)
        corners = [
            (..., slice(top, top + self.height), slice(left, left + self.width))
            for top in range(0, x.shape[-2], self.height)
            for left in range(0, x.shape[-1], self.width)
        ]
        for n in range(0, len(corners), self.together):
            tiles = corners[n : n + self.together]
            given = {
                k: v
                if not isinstance(v, torch.Tensor)
                else torch.cat([v[tile] for tile in tiles])
                if v.ndim == x.ndim
                else v.repeat(len(tiles), *[1] * (v.ndim - 1))
                for k, v in c.items()
            }
            predicted = apply_model(
                torch.cat([x[tile] for tile in tiles]), t.repeat(len(tiles)), **given
            )
            for tile, part in zip(tiles, predicted.chunk(len(tiles)), strict=True):
                out[tile] = part
        return out


class TestRows:
    @pytest.mark.parametrize("wrapper", [one_by_one, reversed_rows, positives_alone])
    @pytest.mark.parametrize("batch", [1, 2])
    @pytest.mark.parametrize("family", FAMILIES)
    def test_parts_of_a_batch(
        self, plain: Any, apply: Any, subjects: Any, family: str, wrapper: Wrapper, batch: int
    ) -> None:
        ours = apply(plain, subjects(LEFT, RIGHT))
        at_once = sample(guide(ours), batch=batch)
        assert differ(at_once, sample(guide(plain), batch=batch))
        assert_same(sample(guide(with_function(ours, wrapper)), batch=batch), at_once)
        assert_same(sample(guide(apply(with_function(plain, wrapper), subjects(LEFT, RIGHT))),
                           batch=batch), at_once)  # fmt: skip
        watched, calls = with_watch(with_function(ours, wrapper), POSITIVE)
        sample(guide(watched), batch=batch)
        assert_rows_changed(calls, family)

    def test_several_positives_one_by_one(self, plain: Any, apply: Any, subjects: Any) -> None:
        ours = apply(plain, subjects(LEFT, RIGHT))
        positives = cond(POSITIVE) + cond(POSITIVE + 100)
        at_once = sample(guide(ours, positives))
        for wrapper in (one_by_one, reversed_rows):
            watched, calls = with_watch(with_function(ours, wrapper), POSITIVE, POSITIVE + 100)
            assert_same(sample(guide(watched, positives)), at_once)
            assert_only_positive_rows_changed(calls)

    def test_rows_without_a_conditioning_are_an_error(
        self, plain: Any, apply: Any, subjects: Any
    ) -> None:
        """A wrapper passes on the text of one row, but everything else of all rows."""

        def careless(apply_model: Any, args: dict[str, Any]) -> torch.Tensor:
            x, t, c = args["input"], args["timestep"], args["c"]
            only = ("c_crossattn", "y")
            return torch.cat(
                [
                    apply_model(x[n], t[n], **{k: v[n] if k in only else v for k, v in c.items()})
                    for n in ([n] for n in range(len(x)))
                ]
            )

        def forgetful(apply_model: Any, args: dict[str, Any]) -> torch.Tensor:
            known = ("c_crossattn", "y", "transformer_options")
            c = {k: v for k, v in args["c"].items() if k in known}
            return apply_model(args["input"], args["timestep"], **c)

        ours = apply(plain, subjects(LEFT))
        for wrapper in (careless, forgetful):
            model = with_function(ours, wrapper)
            with pytest.raises(ValueError, match=rf"MSD Apply: .*Bypass .*{wrapper.__name__}"):
                sample(guide(model))
            assert_same(sample(guide(with_function(plain, wrapper))), sample(guide(plain)))

    @pytest.mark.parametrize("name", ["xt_positive", "yt_positive"])
    def test_guiders_with_names_of_their_own(
        self, plain: Any, apply: Any, subjects: Any, name: str, caplog: Any
    ) -> None:
        class Guider(comfy.samplers.CFGGuider):
            def set_conds(self, positive: Any, negative: Any) -> None:
                self.inner_set_conds({name: positive, "xt_negative": negative})

            def predict_noise(self, x: Any, timestep: Any, model_options: Any = None,
                              seed: Any = None) -> Any:  # fmt: skip
                conds = [self.conds["xt_negative"], self.conds[name]]
                out = comfy.samplers.calc_cond_batch(
                    self.inner_model, conds, x, timestep, model_options
                )
                return out[0] + self.cfg * (out[1] - out[0])

        model, calls = with_watch(apply(plain, subjects(LEFT)), POSITIVE)
        guider = Guider(model)
        guider.set_conds(cond(POSITIVE), cond(NEGATIVE))
        guider.set_cfg(4.0)
        sample(guider)
        assert_only_positive_rows_changed(calls)
        assert "no subject was drawn" not in caplog.text

    def test_a_run_without_a_positive_says_so(
        self, plain: Any, apply: Any, subjects: Any, caplog: Any
    ) -> None:
        class Guider(comfy.samplers.CFGGuider):
            def predict_noise(self, x: Any, timestep: Any, model_options: Any = None,
                              seed: Any = None) -> Any:  # fmt: skip
                return comfy.samplers.calc_cond_batch(
                    self.inner_model, [self.conds["text"]], x, timestep, model_options
                )[0]

        guider = Guider(apply(plain, subjects(LEFT)))
        guider.inner_set_conds({"text": cond(POSITIVE)})
        sample(guider)
        assert caplog.text.count("no subject was drawn. The guider has 'text'.") == 1
        caplog.clear()
        sample(guide(apply(plain, subjects(LEFT))), sigmas=torch.tensor([8.0]))  # no steps
        assert not caplog.text

    @pytest.mark.parametrize("first", ["ours", "regions"])
    def test_regions_that_insert_rows_in_place(
        self, plain: Any, apply: Any, subjects: Any, first: str
    ) -> None:
        """Krita's AI Diffusion inserts its regions' rows into the host's list while an attention
        runs, and takes them out again. What both add is the sum of what each adds alone."""
        texts = [noise(seed, 1, 77, 64) for seed in (MIDDLE, MIDDLE + 1)]

        def enlarge(q: Any, k: Any, v: Any, extra: Any) -> Any:
            order, queries, keys = extra["cond_or_uncond"], [], []
            chunks = list(zip(q.chunk(len(order)), k.chunk(len(order)), strict=True))
            for n, (query, key) in reversed(list(enumerate(chunks))):
                if order[n] == 1:
                    queries, keys = [query, *queries], [key, *keys]
                    continue
                queries = [query] * len(texts) + queries
                keys = [text.expand(len(key), -1, -1) for text in texts] + keys
                order[n:n] = [0] * (len(texts) - 1)
            return torch.cat(queries), torch.cat(keys), torch.cat(keys)

        def join(out: Any, extra: Any) -> Any:
            order, joined, begin = extra["cond_or_uncond"], [], 0
            each, n = len(out) // len(order), 0
            while n < len(order):
                count = 1 if order[n] == 1 else len(texts)
                joined.append(out[begin : begin + count * each].unflatten(0, (count, each)).mean(0))
                begin += count * each
                del order[n : n + count - 1]
                n += 1
            return torch.cat(joined)

        def regions(model: Any) -> Any:
            patched = model.clone()
            patched.set_model_attn2_patch(enlarge)
            patched.set_model_attn2_output_patch(join)
            return patched

        def ours(model: Any) -> Any:
            return apply(model, subjects(LEFT, RIGHT))

        def first_attention(model: Any) -> torch.Tensor:
            seen: list[torch.Tensor] = []
            watched = model.clone()
            watched.set_model_attn2_output_patch(lambda out, extra: seen.append(out.clone()) or out)
            sample(guide(watched), batch=2)
            return seen[0]

        both = regions(ours(plain)) if first == "ours" else ours(regions(plain))
        nothing = first_attention(plain)
        added = [first_attention(m) - nothing for m in (regions(plain), ours(plain), both)]
        assert added[0].abs().max() > 0 and added[1].abs().max() > 0
        assert_same(added[2], added[0] + added[1], tolerance=1e-5)


class TestTiles:
    @pytest.mark.parametrize("together", [1, 2, 4])
    @pytest.mark.parametrize("size", [(8, 16), (16, 8), (8, 8)])
    def test_each_tile_sees_its_part_of_the_layout(
        self, plain: Any, apply: Any, subjects: Any, size: tuple[int, int], together: int
    ) -> None:
        """As an area would: a picture of the tile's size with the boxes moved into it."""
        height, width = size
        boxes = ((0.25, 0.25, 0.75, 0.5), (0.5, 0.5, 1.0, 1.0))
        latent = noise(5, 2, 4, 16, 16)

        def evaluate(model: Any, x: torch.Tensor) -> torch.Tensor:
            """The positive prompt's prediction for a latent."""
            seen: list[torch.Tensor] = []

            def feed(denoise: Any, start: Any, sigmas: Any, extra_args: Any, **_: Any) -> Any:
                seen.append(denoise(x, sigmas[:1].expand(len(x)), **extra_args))
                return start

            start = torch.zeros_like(x)
            sampler = comfy.samplers.KSAMPLER(feed)
            # SDXL is conditioned on the size of the whole picture.
            size = {"width": 128, "height": 128}
            guider = guide(model, cond(POSITIVE, **size), cond(NEGATIVE, **size))
            guider.sample(start, start, sampler, torch.tensor([8.0, 0.0]), disable_pbar=True)
            return seen[0]

        tiled = with_function(apply(plain, subjects(*boxes)), Tiles(height, width, together))
        whole = evaluate(tiled, latent)
        for top in range(0, 16, height):
            for left in range(0, 16, width):
                moved = [
                    tuple(
                        min(max((edge * 16 - start) / edge_length, 0.0), 1.0)
                        for edge, start, edge_length in zip(
                            box, (left, top) * 2, (width, height) * 2, strict=True
                        )
                    )
                    for box in boxes
                ]
                moved = [b if b[0] < b[2] and b[1] < b[3] else (0.0,) * 4 for b in moved]
                part = (..., slice(top, top + height), slice(left, left + width))
                alone = evaluate(apply(plain, subjects(*moved)), latent[part])
                assert_same(whole[part], alone, tolerance=1e-5)

    def test_tiles_of_a_wrapper_without_marks(self, plain: Any, apply: Any, subjects: Any) -> None:
        """They are recognised by their values, unless the wrapper has changed them."""

        def halves(apply_model: Any, args: dict[str, Any], gain: float = 1.0) -> torch.Tensor:
            x, t, c = args["input"], args["timestep"], args["c"]
            return torch.cat([apply_model(half * gain, t, **c) for half in x.chunk(2, -1)], -1)

        def louder(apply_model: Any, args: dict[str, Any]) -> torch.Tensor:
            return halves(apply_model, args, 1.01)

        ours = apply(plain, subjects(LEFT, RIGHT))
        expected = sample(guide(with_function(ours, Tiles(16, 8))))
        assert_same(sample(guide(with_function(ours, halves))), expected)
        with pytest.raises(ValueError, match=r"MSD Apply: .* 16 x 8 cells .*Bypass .*louder"):
            sample(guide(with_function(ours, louder)))

    @pytest.mark.parametrize("side", ["cond", "uncond"])
    def test_windows_of_a_guidance(self, plain: Any, apply: Any, subjects: Any, side: str) -> None:
        """Sliding Window Guidance evaluates crops through the host, and doesn't say which."""
        seen: list[torch.Tensor] = []

        def swg(args: dict[str, Any]) -> torch.Tensor:
            seen.append(
                torch.cat(
                    [
                        comfy.samplers.calc_cond_batch(
                            args["model"], [args[side]], x, args["sigma"], args["model_options"]
                        )[0]
                        for x in args["input"].split(8, -1)
                    ],
                    -1,
                )
            )
            return args["denoised"]

        def crops(model: Any) -> torch.Tensor:
            model = model.clone()
            seen.clear()
            model.set_model_sampler_post_cfg_function(swg)
            size = {"width": 128, "height": 128}
            guider = guide(model, cond(POSITIVE, **size), cond(NEGATIVE, **size))
            sample(guider, sigmas=torch.tensor([8.0, 0.0]))
            return seen[0]

        nothing, boxed = crops(plain), crops(apply(plain, subjects((0.5, 0.25, 1.0, 0.75))))
        if side == "uncond":  # which no subject is in
            assert torch.equal(boxed, nothing)
            return
        assert torch.equal(boxed[..., :8], nothing[..., :8])
        alone = crops(apply(plain, subjects((0.0, 0.25, 1.0, 0.75))))
        assert_same(boxed[..., 8:], alone[..., 8:], tolerance=1e-5)


class TestContextWindows:
    @pytest.mark.parametrize("schedule", ["standard_static", "standard_uniform", "looped_uniform"])
    @pytest.mark.parametrize("dim", [2, 3])
    def test_over_the_picture(
        self, registry: Any, plain: Any, apply: Any, subjects: Any, dim: int, schedule: str
    ) -> None:
        """In each window the subject is where the whole layout has it, also in one that wraps
        around."""
        covered = torch.zeros(1, 1, 16, 32)
        covered[..., 4:6, 24:] = 1
        model = apply(plain, subjects((0.75, 0.25, 1.0, 0.375)))
        options = {
            "context_length": 8 if dim == 2 else 16,
            "context_overlap": 4,
            "context_schedule": schedule,
            "context_stride": 1,
            "closed_loop": schedule == "looped_uniform",
            "fuse_method": "flat",
            "dim": dim,
            "freenoise": False,
        }
        windowed = run_node(registry, "ContextWindowsManual", model, **options)[0]

        def no_text(q: Any, k: Any, v: Any, extra: Any, **_: Any) -> torch.Tensor:
            return torch.zeros_like(q)

        windowed.set_model_attn2_replace(no_text, "input", 4, 0)
        shown: set[tuple[int, ...]] = set()
        found: list[bool] = []

        def where(out: torch.Tensor, extra: Any) -> torch.Tensor:
            if extra["block"] == ("input", 4) and extra["block_index"] == 0:
                window = extra["context_window"]
                shown.add(tuple(window.index_list))
                part = window.get_tensor(covered, dim=dim)
                expected = torch.nn.functional.max_pool2d(part, 2, ceil_mode=True)
                positive, negative = out[torch.tensor(extra["cond_or_uncond"]).argsort()]
                added = (positive != negative).any(-1)
                assert torch.equal(added.view_as(expected), expected > 0)
                found.append(bool(added.any()))
            return out

        windowed.set_model_attn2_output_patch(where)
        sample(guide(windowed), 16, 32)
        assert len(shown) > 1 and any(found) and not all(found)

    def test_over_frames(self, registry: Any, plain: Any, apply: Any, subjects: Any) -> None:
        """Each picture of a batch follows its own maps, also where windows overlap: as without
        windows, since without a motion module no picture depends on another."""
        auto = subjects(LEFT, RIGHT, auto=(0.5, 1), prompt_tokens=((5, 6), (9,)))
        model = apply(plain, auto)
        expected = sample(guide(model), batch=5)
        assert differ(expected, sample(guide(apply(plain, subjects(LEFT, RIGHT))), batch=5))
        for overlap in (0, 1):
            for schedule in ("standard_static", "standard_uniform"):
                options = {
                    "context_length": 2,
                    "context_overlap": overlap,
                    "context_schedule": schedule,
                    "context_stride": 1,
                    "closed_loop": False,
                    "fuse_method": "flat",
                    "dim": 0,
                    "freenoise": False,
                }
                windowed = run_node(registry, "ContextWindowsManual", model, **options)[0]
                assert_same(sample(guide(windowed), batch=5), expected)


def test_a_latent_that_grows(registry: Any, plain: Any, apply: Any, subjects: Any) -> None:
    """SamplerLCMUpscale: the layout grows with it, and auto layout begins again in each grid."""
    model, grids = apply(plain, subjects(LEFT)), set()

    def no_text(q: Any, k: Any, v: Any, extra: Any, **_: Any) -> torch.Tensor:
        return torch.zeros_like(q)

    def where(out: torch.Tensor, extra: Any) -> torch.Tensor:
        if extra["block"] == ("input", 4) and extra["block_index"] == 0:
            height, width = extra["activations_shape"][-2:]
            grids.add((height, width))
            expected = box_coverage(torch.tensor([LEFT]), height, width)[0]
            positive, negative = out[torch.tensor(extra["cond_or_uncond"]).argsort()]
            assert torch.equal((positive != negative).any(-1), expected)
        return out

    (sampler,) = run_node(registry, "SamplerLCMUpscale", 2.0, -1, "bilinear")
    start = noise(1, 1, 4, 16, 16)

    def picture(model: Any) -> torch.Tensor:
        torch.manual_seed(0)
        return guide(model).sample(
            start, torch.zeros_like(start), sampler, torch.tensor([8.0, 4.0, 2.0, 0.0]),
            disable_pbar=True,
        )  # fmt: skip

    watched = model.clone()
    watched.set_model_attn2_replace(no_text, "input", 4, 0)
    watched.set_model_attn2_output_patch(where)
    picture(watched)
    assert len(grids) == 3
    followed = picture(apply(plain, subjects(LEFT, auto=(0.5, 1), prompt_tokens=((5, 6),))))
    assert followed.shape[-1] == 32 and differ(followed, picture(model))
