"""MSDApply in the host's own sampling: which rows change, invariants, state, other patches."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import comfy.samplers
import pytest
import torch
from golden import Golden
from sampling import (
    EVERYWHERE,
    FAMILIES,
    IN_BOXES,
    LEFT,
    MIDDLE,
    NEGATIVE,
    POSITIVE,
    RIGHT,
    SIGMAS,
    assert_only_positive_rows_changed,
    assert_same,
    cond,
    differ,
    guide,
    noise,
    patch_of,
    sample,
    with_watch,
)

from lab.host.in_process import run_node

D = Golden("d_unet")


class TestRows:
    @pytest.fixture
    def watched(self, plain: Any, apply: Any, subjects: Any) -> Any:
        return with_watch(apply(plain, subjects(LEFT, RIGHT)), POSITIVE, POSITIVE + 100)

    @pytest.mark.parametrize("batch", [1, 3])
    def test_guidance(self, watched: Any, batch: int) -> None:
        model, calls = watched
        sample(guide(model), batch=batch)
        assert [len(positive) for _, positive in calls] == [2 * batch] * 3
        assert_only_positive_rows_changed(calls)

    def test_no_guidance(self, watched: Any) -> None:
        model, calls = watched
        sample(guide(model, cfg=1.0))
        assert [positive for _, positive in calls] == [[True]] * 3
        assert_only_positive_rows_changed(calls)

    def test_several_positives(self, watched: Any) -> None:
        model, calls = watched
        sample(guide(model, cond(POSITIVE) + cond(POSITIVE + 100)), batch=2)
        assert sum(calls[0][1]) == 4
        assert_only_positive_rows_changed(calls)

    @pytest.mark.parametrize("lengths", [(77, 154), (154, 77), (231, 154), (385, 77)])
    def test_unequal_text_lengths(self, watched: Any, lengths: tuple[int, int]) -> None:
        model, calls = watched
        sample(guide(model, cond(POSITIVE, lengths[0]), cond(NEGATIVE, lengths[1])))
        assert sum(sum(positive) for _, positive in calls) == 3
        assert_only_positive_rows_changed(calls)

    def test_one_row_at_a_time(self, watched: Any, monkeypatch: Any) -> None:
        model, calls = watched
        monkeypatch.setattr(model.model, "memory_required", lambda *a, **k: 1e30)
        sample(guide(model))
        assert [len(positive) for _, positive in calls] == [1] * 6
        assert_only_positive_rows_changed(calls)

    def test_two_models_calls_a_step(self, watched: Any) -> None:
        model, calls = watched
        sample(guide(model), sampler="heun")
        assert len(calls) == 5
        assert_only_positive_rows_changed(calls)

    @pytest.mark.parametrize("style", ["regular", "nested"])
    def test_dual_guidance(self, watched: Any, registry: Any, style: str) -> None:
        model, calls = watched
        node = registry["DualCFGGuider"]
        guider = node.execute(
            model, cond(POSITIVE), cond(MIDDLE), cond(NEGATIVE), 4.0, 3.0, style
        )[0]  # fmt: skip
        sample(guider)
        assert_only_positive_rows_changed(calls)

    def test_perp_neg(self, watched: Any, registry: Any) -> None:
        model, calls = watched
        node = registry["PerpNegGuider"]
        sample(node.execute(model, cond(POSITIVE), cond(NEGATIVE), cond(MIDDLE), 5.0, 1.0)[0])
        assert_only_positive_rows_changed(calls)

    @pytest.mark.parametrize("node", ["SelfAttentionGuidance", "PerturbedAttentionGuidance"])
    def test_guidance_by_extra_calls(self, watched: Any, registry: Any, node: str) -> None:
        model, calls = watched
        options = {"scale": 2.0}
        if node == "SelfAttentionGuidance":
            options = {"scale": 0.5, "blur_sigma": 2.0}
        sample(guide(registry[node].execute(model, **options)[0]))
        assert len(calls) == 6
        assert_only_positive_rows_changed(calls)

    def test_area(self, watched: Any) -> None:
        """The host gives an area's negative twin the positive's uuid: they must not be confused."""
        model, calls = watched
        area = cond(POSITIVE + 100, area=(8, 8, 4, 8), strength=1.0)
        sample(guide(model, cond(POSITIVE) + area))
        assert {len(positive) for _, positive in calls} == {2}
        assert sum(sum(positive) for _, positive in calls) == 6
        assert_only_positive_rows_changed(calls)

    def test_mask_and_timestep_range(self, watched: Any) -> None:
        model, calls = watched
        mask = torch.zeros(1, 16, 16)
        mask[:, 4:12, 6:] = 1
        masked = cond(POSITIVE + 100, mask=mask, set_area_to_bounds=True, mask_strength=1.0)
        ranged = cond(POSITIVE, start_percent=0.0, end_percent=0.8)
        sample(guide(model, ranged + masked))
        assert_only_positive_rows_changed(calls)

    def test_a_call_of_another_guider_inside_a_run_is_left_alone(self, plain: Any, apply: Any,
                                                               subjects: Any) -> None:  # fmt: skip
        """The dual model guider counts the negative as 0, on conditionings of its own."""
        model, calls = with_watch(apply(plain, subjects(LEFT)), POSITIVE)
        import comfy_extras.nodes_custom_sampler as samplers

        if not hasattr(samplers, "Guider_DualModel"):
            pytest.skip("This host has no dual model guider yet.")
        guider = samplers.Guider_DualModel(model, model.clone())
        guider.set_conds(cond(POSITIVE), cond(NEGATIVE))
        guider.set_cfg(5.0)
        sample(guider)
        assert len(calls) == 6
        assert_only_positive_rows_changed(calls)


def test_boxes_are_mapped_into_an_area(plain: Any, apply: Any, subjects: Any) -> None:
    """A crop must see the subject where the picture has it: the crop's rows equal those of a run
    over a picture of the crop's size with the box moved."""
    outputs = []

    def watch(executor: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        outputs.append((args[0].shape, executor(*args, **kwargs)))
        return outputs[-1][1]

    area = (16, 8, 0, 8)  # the right half of 16 x 16
    for box, positive, width in (
        ((0.625, 0.25, 1.0, 0.5), cond(POSITIVE, area=area, strength=1.0), 16),
        ((0.25, 0.25, 1.0, 0.5), cond(POSITIVE, width=128, height=128), 8),
    ):
        model = apply(plain, subjects(box))
        model.add_wrapper_with_key("diffusion_model", "watch", watch)

        def feed(denoise: Any, x: Any, sigmas: Any, extra_args: Any, **_: Any) -> torch.Tensor:
            whole = noise(5, 1, 4, 16, 16)
            denoise(whole[..., 16 - x.shape[-1] :], sigmas[:1], **extra_args)
            return x

        start = torch.zeros(1, 4, 16, width)
        guider = guide(model, positive, cfg=1.0)
        sampler = comfy.samplers.KSAMPLER(feed)
        guider.sample(start, start, sampler, SIGMAS, disable_pbar=True)
    (shape, in_crop), (same_shape, alone) = outputs
    assert shape == same_shape == (1, 4, 16, 8)
    torch.testing.assert_close(in_crop, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("left, top, width, height", [(8, 0, 8, 16), (4, 4, 8, 8), (0, 12, 12, 4)])
def test_coverage_of_a_window_is_the_window_of_the_coverage(
    pack: Any, left: int, top: int, width: int, height: int
) -> None:
    rows, columns = range(top, top + height), range(left, left + width)
    region = (noise(3, 64, 64) > 0).float()
    kind = pack.module("nodes.subjects").Subject
    window = pack.module("msd_core.coverage").Window
    for box in (LEFT, RIGHT, (0.1, 0.2, 0.6, 0.8), (0.0, 0.0, 0.0, 0.0), EVERYWHERE):
        for mask in (None, region):
            subject = kind("", box, 1.0, torch.zeros(1, 8, 8, 3), region=mask)
            expected = subject.coverage(16, 16).view(16, 16)[list(rows)][:, list(columns)]
            for shown in (
                window(rows, columns, (16, 16)),
                window(*map(tuple, (rows, columns)), (16, 16)),
            ):
                part = subject.coverage(height, width, shown).view(height, width)
                torch.testing.assert_close(part, expected)


class TestInvariants:
    @pytest.mark.parametrize("family", IN_BOXES)
    def test_weight_zero_and_no_subjects_change_nothing(
        self, plain: Any, apply: Any, subjects: Any
    ) -> None:
        untouched = sample(guide(plain))
        for model in (
            apply(plain, subjects(LEFT, RIGHT), weight=0.0),
            apply(plain, subjects((LEFT, 0.0, None), (RIGHT, 0.0, None))),
            apply(plain, subjects()),
            apply(plain, subjects((0.0,) * 4)),
        ):
            assert torch.equal(sample(guide(model)), untouched)

    @pytest.mark.parametrize("family", IN_BOXES)
    def test_full_box_is_no_mask(self, plain: Any, apply: Any, subjects: Any) -> None:
        boxed = sample(guide(apply(plain, subjects(EVERYWHERE))))
        masked = sample(guide(apply(plain, subjects((EVERYWHERE, 1.0, torch.ones(9, 7))))))
        assert_same(boxed, masked)

    @pytest.mark.parametrize("family", FAMILIES)
    def test_order_of_the_subjects_does_not_matter(
        self, plain: Any, apply: Any, subjects: Any
    ) -> None:
        layout = ((LEFT, 0.7, None), ((0.2, 0.2, 0.9, 0.9), 1.1, None), (RIGHT, 1.0, None))
        first = sample(guide(apply(plain, subjects(*layout))))
        second = sample(guide(apply(plain, subjects(*layout, order=(2, 0, 1)))))
        assert_same(first, second)

    @pytest.mark.parametrize("family", FAMILIES)
    def test_the_source_model_is_untouched(self, plain: Any, apply: Any, subjects: Any) -> None:
        before = sample(guide(plain))
        options = repr(plain.model_options)
        patched = apply(plain, subjects(LEFT))
        changed = sample(guide(patched))
        assert not torch.equal(changed, before)
        assert torch.equal(sample(guide(plain)), before)
        assert repr(plain.model_options) == options and not any(plain.wrappers.values())

    @pytest.mark.parametrize("family", FAMILIES)
    def test_clone_of_a_clone(self, plain: Any, apply: Any, subjects: Any) -> None:
        patched = apply(plain, subjects(LEFT))
        assert torch.equal(sample(guide(patched.clone().clone())), sample(guide(patched)))

    @pytest.mark.parametrize("family", FAMILIES)
    def test_apply_twice_adds(self, plain: Any, apply: Any, subjects: Any) -> None:
        once = apply(plain, subjects(LEFT, RIGHT), weight=0.8)
        twice = apply(apply(plain, subjects(LEFT, RIGHT), weight=0.5), subjects(LEFT, RIGHT), 0.3)
        assert_same(sample(guide(once)), sample(guide(twice)))
        both = apply(apply(plain, subjects(LEFT)), subjects(RIGHT))
        assert not torch.equal(sample(guide(both)), sample(guide(apply(plain, subjects(LEFT)))))

    @pytest.mark.parametrize("family", IN_BOXES)
    def test_scale_and_subject_scales(self, plain: Any, apply: Any, subjects: Any) -> None:
        """Weight alone is the published scale; layout weights alone the published
        subject_scales; together they multiply."""
        layout = [(LEFT, 0.5, None), (RIGHT, 1.5, None)]
        together = sample(guide(apply(plain, subjects(*layout), weight=0.6)))
        alone = [(LEFT, 0.3, None), (RIGHT, 0.9, None)]
        assert_same(together, sample(guide(apply(plain, subjects(*alone), weight=1.0))))

    @pytest.mark.parametrize("height, width", [(16, 16), (12, 20), (21, 13), (8, 33), (24, 9)])
    def test_any_size(self, plain: Any, apply: Any, subjects: Any, height: int, width: int) -> None:
        """Only the covered cells' queries get an image branch, in every grid."""
        seen = []
        module = apply(plain, subjects(LEFT, RIGHT))

        def note(q: Any, context: Any, value: Any, extra: Any) -> Any:
            seen.append((q.shape[1], tuple(extra["activations_shape"][-2:])))
            return q, context, value

        module.set_model_attn2_patch(note)
        assert torch.isfinite(sample(guide(module), height, width)).all()
        assert seen and all(queries == h * w for queries, (h, w) in seen)

    @pytest.mark.parametrize("family", FAMILIES)
    def test_start_and_end(self, plain: Any, apply: Any, subjects: Any) -> None:
        model, calls = with_watch(
            apply(plain, subjects(LEFT), start_percent=0.2, end_percent=0.6), POSITIVE
        )
        sigmas = plain.get_model_object("model_sampling").percent_to_sigma
        steps = torch.tensor([sigmas(p) for p in (0.1, 0.3, 0.5, 0.7)] + [0.0])
        sample(guide(model), sigmas=steps)
        assert [any(changed) for changed, _ in calls] == [False, True, True, False]

    @pytest.mark.parametrize(
        "kind, options",
        [
            ("ModelSamplingContinuousEDM", ("edm", 120.0, 0.002)),
            ("ModelSamplingContinuousEDM", ("v_prediction", 120.0, 0.002)),
            ("ModelSamplingContinuousV", ("v_prediction", 500.0, 0.03)),
            ("ModelSamplingDiscrete", ("v_prediction", True)),
            ("ModelSamplingDiscrete", ("lcm", False)),
            ("RescaleCFG", (0.7,)),
        ],
        ids=lambda value: "-".join(map(str, value)) if isinstance(value, tuple) else value,
    )
    def test_start_and_end_are_of_the_schedule_that_runs(
        self, registry: Any, plain: Any, apply: Any, subjects: Any, kind: str, options: Any
    ) -> None:
        """A node that sets the noise schedule may come before or after MSD Apply."""

        def schedule(model: Any) -> Any:
            return run_node(registry, kind, model, *options)[0]

        def ours(model: Any) -> Any:
            return apply(model, subjects(LEFT, RIGHT), start_percent=0.2, end_percent=0.7)

        sampling = schedule(plain).get_model_object("model_sampling")
        sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", 12)
        start, end = sampling.percent_to_sigma(0.2), sampling.percent_to_sigma(0.7)
        expected = [end <= sigma <= start for sigma in sigmas[:-1].tolist()]
        assert any(expected) and not all(expected)
        pictures = []
        for model in (ours(schedule(plain)), schedule(ours(plain))):
            watched, calls = with_watch(model, POSITIVE)
            pictures.append(sample(guide(watched), sigmas=sigmas))
            assert [any(changed) for changed, _ in calls] == expected
        assert torch.equal(*pictures)

    @pytest.mark.parametrize("family", FAMILIES)
    @pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
    def test_half_precision(self, pack: Any, adapter: Any, subjects: Any, half: Any) -> None:
        from models import build_sdxl, fill_from_recipe

        results = []
        for dtype in (torch.float32, half):
            model = build_sdxl((1, 2), dtype=dtype)
            fill_from_recipe(model, D.seed, "unet.")
            patched = pack.MSDApply.execute(model, adapter, subjects(LEFT, RIGHT), 0.6)[0]
            results.append((sample(guide(model)), sample(guide(patched))))
        (plain32, ours32), (plain16, ours16) = results
        assert (ours16 - ours32).abs().mean() < 2 * (plain16 - plain32).abs().mean()


class TestAspect:
    """Layout and latent are compared once a run, when the latent is known."""

    @pytest.fixture
    def warned(self, plain: Any, pack: Any, adapter: Any, subjects: Any, monkeypatch: Any) -> Any:
        """Run with a layout of this size; returns the texts on the node."""
        module = pack.module("nodes.node_text")
        monkeypatch.setattr(
            module.PromptServer.instance, "send_progress_text", lambda *line: sent.append(line)
        )
        sent: list[tuple[str, str]] = []
        node = type("Node", (pack.MSDApply,), {"hidden": SimpleNamespace(unique_id="9")})

        def run(size: Any, height: int, width: int, positive: Any = None, **more: Any) -> Any:
            sent.clear()
            module._warned.clear()
            laid_out = replace(subjects(LEFT, **more), size=size)
            model = node.execute(plain, adapter, laid_out, 0.6)[0]
            sample(guide(model, positive), height, width)
            return list(sent)

        return run

    def test_another_aspect(self, warned: Any, caplog: Any) -> None:
        ((line, node),) = warned((64, 64), 8, 12)
        assert node == "9" and line.startswith(
            "the layout is 64 x 64 pixels, the sampled latent 96 x 64, so the boxes"
        )
        assert caplog.text.count(line) == 1, "once a run, not once a step"
        assert warned((1344, 768), 16, 16) and warned((1024, 1024), 21, 12)

    @pytest.mark.parametrize(
        "size, height, width",
        [
            (None, 8, 12),
            ((64, 64), 8, 8),
            ((1000, 680), 10, 15),  # rounded to 64: 960 x 640
            ((1920, 1080), 16, 30),  # 1920 x 1024
            ((512, 768), 18, 12),  # a second pass over an upscaled latent
            ((1368, 768), 9, 16),
        ],
    )
    def test_the_same_aspect_but_for_rounding(
        self, warned: Any, size: Any, height: int, width: int
    ) -> None:
        assert warned(size, height, width) == []

    def test_areas_and_auto_layout(self, warned: Any) -> None:
        """What is smaller than the latent is a part of it."""
        areas = cond(POSITIVE, area=(8, 4, 0, 8), strength=1.0)
        assert warned((128, 128), 16, 16, cond(POSITIVE) + areas) == []
        assert warned((128, 128), 16, 16, auto=(0.5, 2), prompt_tokens=((5,),)) == []
        assert len(warned((128, 64), 16, 16, cond(POSITIVE) + areas)) == 1

    def test_the_warning_is_withdrawn(self, pack: Any, monkeypatch: Any) -> None:
        sent: list[Any] = []
        module = pack.module("nodes.node_text")
        monkeypatch.setattr(
            module.PromptServer.instance, "send_progress_text", lambda *line: sent.append(line)
        )
        warn = pack.module("nodes.aspect").warn_of_aspect
        for size in ((64, 64), (96, 64), (96, 64)):
            warn("MSD Apply", size, (8, 12), 8, "11")
        assert [text for text, _ in sent[1:]] == ["No warnings."]


class TestAutoLayout:
    PROMPT_TOKENS = ((5, 6), (9,))

    @pytest.fixture
    def counts(self, pack: Any, monkeypatch: Any) -> list[int]:
        """How many steps a layer has counted, at every map that it takes."""
        layout = pack.module("nodes.sampling.image_branch").AutoLayout
        add, counts = layout.add, []

        def counted(self: Any, maps: Any) -> None:
            add(self, maps)
            counts.append(self.steps)

        monkeypatch.setattr(layout, "add", counted)
        return counts

    def test_a_run_leaves_no_trace(self, plain: Any, apply: Any, subjects: Any) -> None:
        make = lambda: apply(  # noqa: E731
            plain, subjects(LEFT, RIGHT, auto=(0.5, 2), prompt_tokens=self.PROMPT_TOKENS)
        )
        used = make()
        first = sample(guide(used), seed=1)
        second = sample(guide(used), seed=2)
        assert torch.equal(sample(guide(used), seed=1), first)
        assert torch.equal(sample(guide(make()), seed=2), second)
        boxes = sample(guide(apply(plain, subjects(LEFT, RIGHT))), seed=1)
        assert not torch.equal(first, boxes)

    def test_maps_are_gathered_before_the_subjects_act(
        self, plain: Any, apply: Any, subjects: Any, counts: list[int]
    ) -> None:
        auto = subjects(LEFT, auto=(0.5, 1), prompt_tokens=((5,),))
        model, calls = with_watch(apply(plain, auto, start_percent=0.3), POSITIVE)
        percent = plain.get_model_object("model_sampling").percent_to_sigma
        steps = torch.tensor([percent(p) for p in (0.1, 0.5, 0.7)] + [0.0])
        sample(guide(model), sigmas=steps)
        assert [any(changed) for changed, _ in calls] == [False, True, True]
        assert max(counts) == 3

    def test_the_boxes_hold_until_a_later_start(
        self, plain: Any, apply: Any, subjects: Any
    ) -> None:
        late = subjects(LEFT, RIGHT, auto=(0.5, 9), prompt_tokens=self.PROMPT_TOKENS)
        boxes = sample(guide(apply(plain, subjects(LEFT, RIGHT))))
        assert_same(sample(guide(apply(plain, late))), boxes)

    def test_unfound_phrase_keeps_its_box(self, plain: Any, apply: Any, subjects: Any) -> None:
        unfound = subjects(LEFT, RIGHT, auto=(0.5, 1), prompt_tokens=((), ()))
        boxes = sample(guide(apply(plain, subjects(LEFT, RIGHT))))
        assert_same(sample(guide(apply(plain, unfound))), boxes)
        beyond = subjects(LEFT, RIGHT, auto=(0.5, 1), prompt_tokens=((500,), (700,)))
        assert_same(sample(guide(apply(plain, beyond))), boxes)

    def test_steps_count_not_calls(
        self, plain: Any, apply: Any, subjects: Any, counts: list[int]
    ) -> None:
        """Heun calls twice a step, guidance by perturbed attention once more; maps count once."""
        auto = subjects(LEFT, RIGHT, auto=(0.5, 2), prompt_tokens=self.PROMPT_TOKENS)
        sample(guide(apply(plain, auto)), sampler="heun")
        assert max(counts) == 3
        assert len(counts) == 3 * len(plain_attentions(plain))

    def test_a_phrase_is_looked_for_in_its_own_text(
        self, plain: Any, apply: Any, subjects: Any, caplog: Any, monkeypatch: Any, pack: Any
    ) -> None:
        """In the prompt, also after another text; in a text without it the subject keeps its
        box."""
        branch = pack.module("nodes.sampling.image_branch")
        right, looked = branch.token_weights, []

        def note(*given: Any) -> torch.Tensor:
            weights = right(*given)
            looked.append([weights[:, n].nonzero().flatten().tolist() for n in range(2)])
            return weights

        monkeypatch.setattr(branch, "token_weights", note)
        auto = subjects(LEFT, RIGHT, auto=(0.5, 1), prompt_tokens=self.PROMPT_TOKENS)
        texts = (cond(POSITIVE)[0][0][0],)
        auto = replace(auto, auto_layout=replace(auto.auto_layout, texts=texts))
        model, boxes = apply(plain, auto), apply(plain, subjects(LEFT, RIGHT))

        def seen(positive: Any) -> tuple[torch.Tensor, list[Any]]:
            looked.clear()
            return sample(guide(model, positive)), looked

        prompt, other = cond(POSITIVE), cond(POSITIVE + 100)
        followed, positions = seen(prompt)
        assert positions == [[[5, 6], [9]]] and "keeps its box" not in caplog.text
        assert differ(followed, sample(guide(boxes, prompt)))

        boxed, positions = seen(other)
        assert positions == [[[], []]] and caplog.text.count("keeps its box") == 2
        assert_same(boxed, sample(guide(boxes, other)))

        mask = torch.zeros(1, 16, 16).index_fill(2, torch.arange(8), 1.0)
        regional = [[prompt[0][0], {**prompt[0][1], "mask": mask}],
                    [other[0][0], {**other[0][1], "mask": 1 - mask}]]  # fmt: skip
        _, positions = seen(regional)
        assert sorted(positions) == [[[], []], [[5, 6], [9]]]

        behind = [[torch.cat((other[0][0], prompt[0][0]), 1), prompt[0][1]]]
        _, positions = seen(behind)
        assert positions == [[[82, 83], [86]]]
        twice = [[torch.cat((prompt[0][0], other[0][0], prompt[0][0]), 1), prompt[0][1]]]
        _, positions = seen(twice)
        assert positions == [[[5, 6, 159, 160], [9, 163]]]

    def test_texts_of_an_attention_couple_keep_the_boxes(
        self, plain: Any, apply: Any, subjects: Any, caplog: Any
    ) -> None:
        def coupled(model: Any) -> Any:
            patched, rows = model.clone(), torch.tensor([0, 1, 1])
            patched.set_model_attn2_patch(lambda q, c, v, extra: (q[rows], c[rows], v[rows]))
            patched.set_model_attn2_output_patch(
                lambda out, extra: torch.stack((out[0], (out[1] + out[2]) / 2))
            )
            return patched

        auto = subjects(LEFT, RIGHT, auto=(0.5, 1), prompt_tokens=self.PROMPT_TOKENS)
        followed, boxes = apply(plain, auto), apply(plain, subjects(LEFT, RIGHT))
        assert_same(sample(guide(coupled(followed))), sample(guide(coupled(boxes))))
        assert caplog.text.count("texts of its own") == 1

    def test_a_sampler_of_fewer_steps_says_that_the_boxes_stay(
        self, plain: Any, apply: Any, subjects: Any, caplog: Any
    ) -> None:
        late = subjects(LEFT, RIGHT, auto=(0.5, 3), prompt_tokens=self.PROMPT_TOKENS)
        model = apply(plain, late)
        sample(guide(model))
        assert "boxes stay" not in caplog.text
        sample(guide(model), sigmas=SIGMAS[1:])
        assert caplog.text.count("this sampler runs 2 steps and counts them from 1") == 1

    @pytest.mark.parametrize("lengths", [(77, 154), (154, 231)])
    def test_repeated_text_gives_the_same_maps(
        self, plain: Any, apply: Any, subjects: Any, lengths: tuple[int, int]
    ) -> None:
        """The host repeats a shorter text to the length of the other one in its batch."""
        auto = subjects(LEFT, RIGHT, auto=(0.5, 1), prompt_tokens=self.PROMPT_TOKENS)
        model = apply(plain, auto)
        positive, negative = cond(POSITIVE, lengths[0]), cond(NEGATIVE, lengths[1])
        together = sample(guide(model, positive, negative))
        model.model.memory_required, before = lambda *a, **k: 1e30, model.model.memory_required
        try:
            apart = sample(guide(model, positive, negative))
        finally:
            model.model.memory_required = before
        assert_same(together, apart, tolerance=1e-3)


def plain_attentions(model: Any) -> list[str]:
    return [k for k in model.model.diffusion_model.state_dict() if k.endswith("attn2.to_k.weight")]


class TestOtherPatches:
    """Whatever other packs put on the same attentions, before or after ours, stays."""

    @staticmethod
    def halve(q: Any, k: Any, v: Any, extra_options: Any, mask: Any = None) -> torch.Tensor:
        from comfy.ldm.modules.attention import optimized_attention

        return 0.5 * optimized_attention(q, k, v, extra_options["n_heads"])

    @pytest.mark.parametrize("key", [("middle", 0), ("middle", 0, 1)])
    def test_replace_patch_before_or_after(
        self, plain: Any, apply: Any, subjects: Any, key: tuple[Any, ...]
    ) -> None:
        before = plain.clone()
        before.set_model_attn2_replace(self.halve, *key)
        alone = sample(guide(before))
        before = sample(guide(apply(before, subjects(LEFT))))
        after = apply(plain, subjects(LEFT))
        after.set_model_attn2_replace(self.halve, *key)
        after = sample(guide(after))
        assert torch.equal(before, after)
        assert not torch.equal(before, alone)
        assert not torch.equal(before, sample(guide(apply(plain, subjects(LEFT)))))

    def test_attention_of_another_type(
        self, plain: Any, apply: Any, subjects: Any, pack: Any
    ) -> None:
        """Other packs' attention may give another type than its query has."""
        rows = pack.module("nodes.sampling.conditionings")
        run, part = pack.module("nodes.sampling.run").Run([]), rows.Part(slice(None), rows._GUESSED)
        layer = pack.module("nodes.sampling.image_branch").Layer(("middle", 0, 0), 8, 4, 4)
        branch = patch_of(apply(plain, subjects(LEFT))).branch
        q = noise(1, 1, 16, 128)
        out = q.double()
        branch.add(run, part, layer, out, q, q)
        assert out.dtype == torch.float64
        changed = (out != q).any(-1)[0].view(4, 4)
        assert changed[1:3, :2].all() and changed.sum() == 4

    def test_a_patch_that_adds_to_the_slot(self, plain: Any, apply: Any, subjects: Any) -> None:
        """Packs check whether something with `add` is in the slot: ours must not be."""
        model = apply(plain, subjects(LEFT))
        slots = model.model_options["transformer_options"].get("patches_replace", {})
        assert not slots.get("attn2")

    @pytest.mark.parametrize("announced", [True, False])
    def test_enlarged_batch_of_an_attention_couple(
        self, plain: Any, apply: Any, subjects: Any, announced: bool
    ) -> None:
        """Such packs repeat the cond rows between two list hooks; some say so in the options."""
        expected = sample(guide(apply(plain, subjects(LEFT))))
        model = apply(plain, subjects(LEFT))

        def enlarge(q: Any, context: Any, value: Any, extra: Any) -> Any:
            if announced:
                extra["cond_or_uncond_couple"] = [1, 0, 0]
            rows = torch.tensor([0, 1, 1])
            return q[rows], context[rows], value[rows]

        model.set_model_attn2_patch(enlarge)
        model.set_model_attn2_output_patch(
            lambda out, extra: torch.stack((out[0], (out[1] + out[2]) / 2))
        )
        assert_same(sample(guide(model)), expected)

    def test_an_unexplained_batch_is_an_error(self, plain: Any, apply: Any, subjects: Any) -> None:
        model = apply(plain, subjects(LEFT))
        model.set_model_attn2_patch(
            lambda q, c, v, extra: tuple(torch.cat((x, x[:1])) for x in (q, c, v))
        )
        with pytest.raises(ValueError, match="changed the batch of the attention from 2 to 3 rows"):
            sample(guide(model))


class TestRefusals:
    def test_adapter_of_another_unet(self, pack: Any, unets: Any, adapters: Any,
                                     subjects: Any) -> None:  # fmt: skip
        with pytest.raises(ValueError, match=r"adapter: .* 17 cross-attentions, the model has 70"):
            pack.MSDApply.execute(unets["topo70"], adapters["tiny"], subjects(LEFT), 0.6)

    def test_subjects_without_tokens(self, pack: Any, plain: Any, adapter: Any) -> None:
        kinds = pack.module("nodes.subjects")
        subject = kinds.Subject("cat", LEFT, 1.0, torch.zeros(1, 8, 8, 3))
        with pytest.raises(ValueError, match="subject 1 has no image tokens"):
            pack.MSDApply.execute(plain, adapter, kinds.Subjects((subject,)), 0.6)

    def test_tokens_of_another_adapter(self, pack: Any, plain: Any, adapter: Any) -> None:
        kinds = pack.module("nodes.subjects")
        tokens = torch.zeros(1, 16, 2048)
        subject = kinds.Subject("cat", LEFT, 1.0, torch.zeros(1, 8, 8, 3), image_tokens=tokens)
        with pytest.raises(ValueError, match=r"image tokens are 2048 wide, this adapter's are 64"):
            pack.MSDApply.execute(plain, adapter, kinds.Subjects((subject,)), 0.6)

    def test_tokens_of_another_adapter_of_the_same_widths(
        self, pack: Any, plain: Any, adapter: Any, subjects: Any
    ) -> None:
        """The adapter knows its tokens by a digest; tokens built by hand have none."""

        def grounded(digest: str | None) -> Any:
            (one,) = subjects(LEFT).subjects
            return replace(subjects(), subjects=(replace(one, adapter_digest=digest),))

        assert adapter.model.digest
        for digest in (None, adapter.model.digest):
            pack.MSDApply.execute(plain, adapter, grounded(digest), 0.6)
        pack.MSDApply.execute(plain, adapter.clone(), grounded(adapter.model.digest), 0.6)
        with pytest.raises(ValueError, match="subject 1 was grounded with another adapter than"):
            pack.MSDApply.execute(plain, adapter, grounded("0123"), 0.6)

    def test_the_model_does_not_keep_the_references(
        self, plain: Any, apply: Any, subjects: Any
    ) -> None:
        (subject,) = patch_of(apply(plain, subjects(LEFT))).branch.subjects.subjects
        assert subject.references.numel() == 0 and subject.image_tokens is None


class TestModels:
    """Models that MSD Apply can't act on."""

    def apply(self, pack: Any, adapter: Any, model: Any, unet: Any, subjects: Any) -> Any:
        other = model.clone()
        other.add_object_patch("diffusion_model", unet)
        return pack.MSDApply.execute(other, adapter, subjects, 0.6)

    def test_a_unet_without_layers(
        self, pack: Any, adapter: Any, plain: Any, subjects: Any
    ) -> None:
        class TrTUnet:
            dtype = torch.float16

        with pytest.raises(ValueError, match=r"^model: its UNet \(TrTUnet\) shows no layers"):
            self.apply(pack, adapter, plain, TrTUnet(), subjects((0, 0, 1, 1)))

    def test_a_model_of_another_family(
        self, pack: Any, adapter: Any, plain: Any, subjects: Any
    ) -> None:
        class Flux(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.double_blocks = torch.nn.Linear(4, 4)

        class Video(torch.nn.Module):  # LTXV names its layers so, elsewhere
            def __init__(self) -> None:
                super().__init__()
                self.transformer_blocks = torch.nn.ModuleDict(
                    {"0": torch.nn.ModuleDict({"attn2": torch.nn.ModuleDict({
                        "to_k": torch.nn.Linear(4, 4)})})}
                )  # fmt: skip

        class Packed(torch.nn.Module):  # layers that don't say their sizes
            def __init__(self) -> None:
                super().__init__()
                self.attn2 = torch.nn.ModuleDict({"to_k": torch.nn.Identity()})

        for unet in (Flux(), Video(), Packed()):
            message = f"^model: expected a UNet of SDXL or SD1.5, got {type(unet).__name__} without"
            with pytest.raises(ValueError, match=message):
                self.apply(pack, adapter, plain, unet, subjects((0, 0, 1, 1)))


@torch.inference_mode()
def test_outside_a_sampling_run_the_first_conditioning_is_the_positive(
    plain: Any, apply: Any, subjects: Any
) -> None:
    """Some packs call the model by themselves, without a run to mark its conditionings."""
    model, calls = with_watch(apply(plain, subjects(LEFT)), POSITIVE)
    inner = model.model
    inner.current_patcher = model
    x = noise(1, 1, 4, 16, 16)
    conds = {"positive": cond(POSITIVE), "negative": cond(NEGATIVE)}
    conds = {k: comfy.sampler_helpers.convert_cond(v) for k, v in conds.items()}
    conds = comfy.samplers.process_conds(inner, x, conds, x.device)
    options = comfy.model_patcher.create_model_options_clone(model.model_options)
    comfy.samplers.calc_cond_batch(
        inner, [conds["positive"], conds["negative"]], x, SIGMAS[:1], options
    )
    assert_only_positive_rows_changed(calls)
