"""MSDPlaceReferences in the host's own sampling, on a tiny model of each architecture."""

from typing import Any, get_type_hints

import comfy.samplers
import pytest
import torch
from comfy.patcher_extension import add_wrapper_with_key
from placed import (
    HEIGHT,
    INNER,
    LEFT,
    NAMES,
    NOWHERE,
    RIGHT,
    WHOLE,
    WIDTH,
    cond,
    guide,
    references,
    sample,
)
from reference_models import ARCHITECTURES, latent
from sampling import differ
from torch import Tensor

from lab.host.in_process import run_node


@pytest.mark.parametrize("name", NAMES)
class TestEveryArchitecture:
    @pytest.mark.parametrize("boxes", [(WHOLE, WHOLE), (NOWHERE, NOWHERE)])
    def test_nothing_to_place_leaves_the_model_as_it_is(
        self, models: Any, place: Any, name: str, boxes: Any
    ) -> None:
        model, given = models(name), references(name)
        positive, negative = cond(name, 2, given), cond(name, 3, given)
        plain = sample(guide(model, positive, negative), name)
        assert torch.equal(sample(guide(place(model, *boxes), positive, negative), name), plain)
        assert differ(sample(guide(place(model, LEFT, RIGHT), positive, negative), name), plain)

    @pytest.mark.parametrize("cfg", [1.0, 4.0])
    def test_attention_follows_the_rule(
        self, models: Any, place: Any, attentions: Any, name: str, cfg: float
    ) -> None:
        region = torch.zeros(8, 8)
        region[2:7, 1:6] = torch.linspace(0.2, 1, 5)
        model = place(models(name), (LEFT, 0.7, None), INNER, (WHOLE, 1.0, region))
        given = references(name, 3)
        sample(guide(model, cond(name, 2, given), cond(name, 3, given), cfg), name, batch=2)
        assert sum(len(a.order) > 1 for a in attentions) == (
            2 * ARCHITECTURES[name].joint_attentions
        )
        for attention in attentions:
            for row in range(len(attention.out)):
                assert attention.error(row) <= 5e-6

    def test_another_reference_changes_nothing_outside_its_box(
        self, models: Any, place: Any, attentions: Any, name: str
    ) -> None:
        """In the first layer, which alone has not seen what others made of it."""
        model = place(models(name), LEFT, RIGHT)
        given = references(name)
        for first in (given[0], 1 - given[0]):
            sample(guide(model, cond(name, 2, [first, given[1]]), cfg=1.0), name, steps=1)
        before, after = (
            next(a for a in attentions[half] if len(a.order) == 3)
            for half in (slice(None), slice(len(attentions) // 2, None))
        )
        _, height, width = before.call.grid
        counts = {"text": before.call.text, "references": before.call.of_references}
        parts = [part.value for part in before.order]
        start = sum(counts[part] for part in parts[: parts.index("picture")])
        same = (before.out == after.out)[0, start : start + height * width].all(-1)
        same = same.view(height, width)
        assert same[:, (width + 1) // 2 :].all()
        assert not same[:, : width // 2].any()

    def test_rows_without_references(self, models: Any, place: Any, name: str) -> None:
        """The negative is evaluated as it always is."""
        model = models(name)
        positive, negative = cond(name, 2, references(name)), cond(name, 3)
        calls: list[list[Tensor]] = []
        for each in (model, place(model, LEFT, RIGHT)):
            outs: list[Tensor] = []

            def watch(executor: Any, *args: Any, outs: Any = outs, **kwargs: Any) -> Tensor:
                out = executor(*args, **kwargs)
                if "ref_latents" not in kwargs:
                    outs.append(out)
                return out

            watched = each.clone()
            add_wrapper_with_key("apply_model", "watch", watch, watched.model_options, True)
            sample(guide(watched, positive, negative), name, steps=1)
            calls.append(outs)
        assert len(calls[0]) == len(calls[1]) == 1
        assert torch.equal(calls[0][0], calls[1][0])

    @pytest.mark.parametrize("batch", [1, 3])
    def test_batches(self, models: Any, place: Any, attentions: Any, name: str, batch: int) -> None:
        model = place(models(name), LEFT, INNER)
        given = references(name)
        together = sample(guide(model, cond(name, 2, given), cond(name, 3, given)), name, batch)
        assert all(len(a.out) % batch == 0 for a in attentions)
        assert together.shape[0] == batch and together.isfinite().all()


@pytest.mark.parametrize("name", [name for name in ("qwen_image", "joyimage") if name in NAMES])
def test_frames(models: Any, place: Any, attentions: Any, name: str) -> None:
    """Each frame has the same layout."""
    model = place(models(name), LEFT, INNER)
    start = latent(name, 4, 6, 1).repeat(1, 1, 2, 1, 1)
    guider = guide(model, cond(name, 2, references(name)), cfg=1.0)
    sampler = comfy.samplers.sampler_object("euler")
    sigmas = torch.tensor([1.0, 0.5, 0.0])
    guider.sample(start, torch.zeros_like(start), sampler, sigmas, disable_pbar=True, seed=1)
    assert attentions
    for attention in attentions:
        for row in range(len(attention.out)):
            assert attention.error(row) <= 5e-6


class TestConditionings:
    def test_numbers_must_agree(self, flux: Any, place: Any) -> None:
        model = place(flux, LEFT, RIGHT)
        for count in (1, 3):
            positive = cond("flux", 2, references("flux", count))
            with pytest.raises(ValueError, match=f"each of the 2 subjects, got {count}"):
                sample(guide(model, positive), "flux")

    def test_none_has_references(self, flux: Any, place: Any) -> None:
        with pytest.raises(ValueError, match="no conditioning of this sampler has reference"):
            sample(guide(place(flux, LEFT, RIGHT), cond("flux", 2)), "flux")

    def test_several_references_of_one_subject(
        self, flux: Any, place: Any, attentions: Any
    ) -> None:
        model = place(flux, LEFT, RIGHT, counts=(1, 2))
        sample(guide(model, cond("flux", 2, references("flux", 3)), cfg=1.0), "flux")
        assert [owner for owner, _ in attentions[0].call.references] == [0, 1, 1]
        for attention in attentions:
            assert attention.error(0) <= 5e-6

    def test_sizes_belong_to_the_conditioning(self, flux: Any, place: Any, attentions: Any) -> None:
        """Positive and negative with references of other sizes, so in calls of their own."""
        model = place(flux, LEFT, INNER)
        positive = cond("flux", 2, references("flux"))
        negative = cond("flux", 3, references("flux")[::-1], tokens=5)
        sample(guide(model, positive, negative), "flux")
        assert len({a.call.references for a in attentions}) == 2
        for attention in attentions:
            assert attention.error(0) <= 5e-6

    def test_an_area_sees_its_part_of_the_layout(
        self, flux: Any, place: Any, attentions: Any
    ) -> None:
        area = (HEIGHT - 1, 4, 0, 4)  # height, width, top, left: the right of the picture
        model = place(flux, (0.75, 0.0, 1.0, 1.0), NOWHERE)
        positive = cond("flux", 2, references("flux"), area=area, strength=1.0)
        sample(guide(model, positive, cfg=1.0), "flux")
        window = attentions[0].call.rows[0].window
        assert list(window.columns) == list(range(4, 8)) and window.latent_size == (HEIGHT, WIDTH)
        for attention in attentions:
            assert attention.error(0) <= 5e-6

    def test_a_reference_of_weight_0_is_not_seen(self, flux: Any, place: Any) -> None:
        model = place(flux, (LEFT, 0.0, None), RIGHT)
        first, second = (
            sample(guide(model, cond("flux", 2, [own, references("flux")[1]])), "flux")
            for own in (references("flux")[0], references("flux", seed=9)[0])
        )
        assert torch.equal(first, second)

    def test_a_region_of_nothing_is_not_seen(self, flux: Any, place: Any, caplog: Any) -> None:
        model = place(flux, (NOWHERE, 1.0, torch.zeros(4, 4)), RIGHT)
        first, second = (
            sample(guide(model, cond("flux", 2, [own, references("flux")[1]])), "flux")
            for own in (references("flux")[0], references("flux", seed=9)[0])
        )
        assert torch.equal(first, second)
        assert caplog.text.count("subject 1 covers none of the picture's 3 x 4 tokens") == 2

    def test_a_cropped_out_subject_is_not_seen(self, pack: Any, flux: Any) -> None:
        kinds = pack.module("nodes.subjects")
        made = tuple(kinds.Subject("", box, 1.0, torch.zeros(1, 8, 8, 3)) for box in (LEFT, RIGHT))
        shown = pack.MSDCropSubjects.execute(
            kinds.Subjects(made, size=(100, 100)), x=0, y=0, width=50, height=100
        )[0]
        model = pack.MSDPlaceReferences.execute(flux, shown)[0]
        first, second = (
            sample(guide(model, cond("flux", 2, [references("flux")[0], own])), "flux")
            for own in (references("flux")[1], references("flux", seed=9)[1])
        )
        assert torch.equal(first, second)


class TestSteps:
    def test_start_and_end(self, flux: Any, place: Any) -> None:
        positive = cond("flux", 2, references("flux"))
        plain = sample(guide(flux, positive, cfg=1.0), "flux", steps=4)
        never = place(flux, LEFT, RIGHT, start_percent=1.0)
        assert torch.equal(sample(guide(never, positive, cfg=1.0), "flux", steps=4), plain)
        late = sample(
            guide(place(flux, LEFT, RIGHT, start_percent=0.5), positive, cfg=1.0), "flux", steps=4
        )
        always = sample(guide(place(flux, LEFT, RIGHT), positive, cfg=1.0), "flux", steps=4)
        assert differ(late, plain) and differ(late, always)

    def test_a_plan_is_made_once_a_run(
        self, pack: Any, flux: Any, place: Any, monkeypatch: Any
    ) -> None:
        module = pack.module("nodes.sampling.joint_attention")
        right, made = module.placed_groups, []

        def counted(*args: Any) -> Any:
            made.append(args)
            return right(*args)

        monkeypatch.setattr(module, "placed_groups", counted)
        model = place(flux, LEFT, RIGHT)
        positive = cond("flux", 2, references("flux"))
        sample(guide(model, positive), "flux", steps=4)
        assert len(made) == 1
        # Another size in the next run has another plan.
        sample(guide(model, positive), "flux", size=(6, 6))
        assert len(made) == 2

    def test_several_samplers(self, flux: Any, place: Any) -> None:
        model, positive = place(flux, LEFT, RIGHT), cond("flux", 2, references("flux"))
        for sampler in ("heun", "dpmpp_2m", "uni_pc"):
            assert sample(guide(model, positive), "flux", sampler=sampler).isfinite().all()

    def test_sampler_custom_advanced(self, flux: Any, place: Any, registry: Any) -> None:
        model, positive = place(flux, LEFT, RIGHT), cond("flux", 2, references("flux"))
        start = {"samples": torch.zeros(1, 16, HEIGHT, WIDTH)}
        guider = run_node(registry, "BasicGuider", model, positive)[0]
        noise = run_node(registry, "RandomNoise", 3)[0]
        sigmas = run_node(registry, "BasicScheduler", model, "simple", 2, 1.0)[0]
        sampler = run_node(registry, "KSamplerSelect", "euler")[0]
        custom = run_node(registry, "SamplerCustomAdvanced", noise, guider, sampler, sigmas, start)
        usual = run_node(
            registry, "KSampler", model, 3, 2, 1.0, "euler", "simple", positive, positive, start
        )
        assert torch.equal(custom[0]["samples"], usual[0]["samples"])


class TestModels:
    def test_an_sdxl_model(self, plain: Any, place: Any) -> None:
        with pytest.raises(ValueError, match="use MSD Apply"):
            place(plain, LEFT, RIGHT)

    def test_an_architecture_that_is_not_known(
        self, flux: Any, place: Any, monkeypatch: Any
    ) -> None:
        monkeypatch.setitem(flux.model.model_config.unet_config, "image_model", "sea_otter")
        with pytest.raises(ValueError, match=r"can't be placed in Flux \(sea_otter\)"):
            place(flux, LEFT, RIGHT)

    def test_a_flux_model_in_msd_apply(self, flux: Any, apply: Any, subjects: Any) -> None:
        with pytest.raises(ValueError, match="MSD Place References"):
            apply(flux, subjects(LEFT))


def x_and_y_swapped(module: Any, monkeypatch: Any) -> None:
    kind = get_type_hints(module.Layout)["subjects"]
    right = kind.coverage

    def coverage(subjects: Any, height: int, width: int, window: Any) -> Any:
        swapped = right(subjects, width, height, window).view(-1, width, height)
        return swapped.mT.flatten(1)

    monkeypatch.setattr(kind, "coverage", coverage)


def another_order(module: Any, monkeypatch: Any) -> None:
    right = module.PlacedCall.sequence

    def sequence(call: Any, queries: int, keys: int) -> Any:
        order = right(call, queries, keys)
        return order and (order[1], order[0], *order[2:]) if order and len(order) > 2 else order

    monkeypatch.setattr(module.PlacedCall, "sequence", sequence)


def another_patch_size(module: Any, monkeypatch: Any) -> None:
    right = module.token_grid
    monkeypatch.setattr(
        module, "token_grid", lambda latent, patch: right((*latent[:-2], *latent[:-3:-1]), patch)
    )


def sizes_of_another_conditioning(module: Any, monkeypatch: Any) -> None:
    right, first = module.PlacedCall.of, []

    def of(*args: Any) -> Any:
        *others, given = args
        first.append(given)
        call, other = right(*others, given), right(*others, first[0][::-1])
        call.references = other.references
        return call

    monkeypatch.setattr(module.PlacedCall, "of", staticmethod(of))


def a_plan_of_another_size(module: Any, monkeypatch: Any) -> None:
    right, plans = module.PlacedCall._groups, {}

    def groups(call: Any, order: Any, query: Tensor, row: Any) -> Any:
        stale = plans.setdefault((tuple(order), query.shape[-2]), (call, order, query, row))
        return right(*stale)

    monkeypatch.setattr(module.PlacedCall, "_groups", groups)


@pytest.mark.parametrize(
    "mistake",
    [
        x_and_y_swapped,
        another_order,
        another_patch_size,
        sizes_of_another_conditioning,
        a_plan_of_another_size,
    ],
)
def test_mistakes_are_caught(
    mistake: Any, pack: Any, flux: Any, place: Any, monkeypatch: Any
) -> None:
    """Against a picture made without it: a layout that neither turning nor swapping leaves."""
    model = place(flux, (0.1, 0.0, 0.4, 0.6), (0.5, 0.3, 1.0, 1.0))
    positive = cond("flux", 2, references("flux"))
    right = sample(guide(model, positive), "flux")

    def after_another_size() -> Tensor:
        sample(guide(model, positive), "flux", size=(WIDTH, HEIGHT))  # as many tokens
        return sample(guide(model, positive), "flux")

    assert torch.equal(after_another_size(), right)
    mistake(pack.module("nodes.sampling.joint_attention"), monkeypatch)
    assert differ(after_another_size(), right)
