"""MSDPlaceReferences beside what else changes how a transformer is sampled."""

from typing import Any

import comfy.controlnet
import comfy.ldm.flux.controlnet
import comfy.ops
import pytest
import torch
from comfy_api.torch_helpers import set_torch_compile_wrapper
from placed import LEFT, NAMES, RIGHT, WHOLE, cond, guide, references, sample
from reference_models import FLUX
from sampling import differ
from torch import Tensor

from lab.host.in_process import run_node


def follow_the_rule(found: Any) -> bool:
    return bool(found) and all(a.error(row) <= 5e-6 for a in found for row in range(len(a.out)))


class TestCompany:
    def test_the_model_that_was_given_stays(self, flux: Any, place: Any) -> None:
        positive = cond("flux", 2, references("flux"))
        before = sample(guide(flux, positive), "flux")
        sample(guide(place(flux, LEFT, RIGHT), positive), "flux")
        assert torch.equal(sample(guide(flux, positive), "flux"), before)

    @pytest.mark.parametrize("first", [True, False])
    def test_another_override(self, flux: Any, place: Any, first: bool) -> None:
        """As packs choose an attention function by."""
        lengths: list[int] = []

        def override(function: Any, q: Any, k: Any, *args: Any, **kwargs: Any) -> Tensor:
            lengths.append(k.shape[-2])
            return function(q, k, *args, **kwargs)

        def with_override(model: Any) -> Any:
            patched = model.clone()
            patched.model_options["transformer_options"]["optimized_attention_override"] = override
            return patched

        positive = cond("flux", 2, references("flux"))
        expected = sample(guide(place(flux, LEFT, RIGHT), positive), "flux")
        model = (
            place(with_override(flux), LEFT, RIGHT)
            if first
            else with_override(place(flux, LEFT, RIGHT))
        )
        assert torch.equal(sample(guide(model, positive), "flux"), expected)
        assert len(set(lengths)) == 5  # of the text, of each half, of each reference

    def test_two_layouts_at_once(self, flux: Any, place: Any) -> None:
        """What both allow."""
        positive = cond("flux", 2, references("flux"))
        both = place(place(flux, LEFT, WHOLE), WHOLE, RIGHT)
        one = place(flux, LEFT, RIGHT)
        first, second = (sample(guide(m, positive), "flux") for m in (both, one))
        assert (first - second).abs().max() <= 2e-4 * second.abs().max()

    def test_flux_kv_cache(self, models: Any, place: Any, registry: Any, attentions: Any) -> None:
        if "FluxKVCache" not in registry:
            pytest.skip("This ComfyUI hasn't the node.")
        model = place(run_node(registry, "FluxKVCache", models("flux2"))[0], LEFT, RIGHT)
        sample(guide(model, cond("flux2", 2, references("flux2")), cfg=1.0), "flux2", steps=3)
        assert {a.qkv[0].shape[2] < a.qkv[1].shape[2] for a in attentions} == {True, False}
        for attention in attentions:
            queries = attention.qkv[0].shape[2]
            if queries == attention.qkv[1].shape[2]:
                assert attention.error(0) <= 5e-6
            assert attention.out.shape[1] == queries

    def test_easy_cache(self, flux: Any, place: Any, registry: Any) -> None:
        model = run_node(registry, "EasyCache", place(flux, LEFT, RIGHT), 0.2, 0.15, 0.95, False)
        out = sample(guide(model[0], cond("flux", 2, references("flux"))), "flux", steps=6)
        assert out.isfinite().all()

    def test_nag(self, flux: Any, place: Any, registry: Any) -> None:
        given = references("flux")
        model = run_node(registry, "NAGuidance", place(flux, LEFT, RIGHT), 5.0, 0.5, 1.5)[0]
        plain = run_node(registry, "NAGuidance", flux, 5.0, 0.5, 1.5)[0]
        texts = cond("flux", 2, given), cond("flux", 3, given)
        first, second = (sample(guide(m, *texts, cfg=1.0), "flux") for m in (model, plain))
        assert differ(first, second) and first.isfinite().all()

    def test_torch_compile_runs_uncompiled(self, flux: Any, place: Any, caplog: Any) -> None:
        positive = cond("flux", 2, references("flux"))
        model = place(flux, LEFT, RIGHT)
        compiled = model.clone()
        set_torch_compile_wrapper(compiled, backend="aot_eager")
        assert torch.equal(
            sample(guide(compiled, positive), "flux"), sample(guide(model, positive), "flux")
        )
        assert caplog.text.count("MSD Place References: the model runs uncompiled") == 1

    def test_a_model_that_ignores_references(self, models: Any, place: Any) -> None:
        """Krea 2 takes them only with a method."""
        if "krea2" not in NAMES:
            pytest.skip("This ComfyUI hasn't the model.")
        model = models("krea2").clone()
        model.add_object_patch("diffusion_model.default_ref_method", None)
        positive = cond("krea2", 2, references("krea2"))
        with pytest.raises(ValueError, match="Edit Model Reference Method"):
            sample(guide(place(model, LEFT, RIGHT), positive), "krea2")

    def test_lora(self, flux: Any, place: Any) -> None:
        key = "diffusion_model.single_blocks.0.linear1.weight"
        weight = flux.model.state_dict()[key]
        generator = torch.Generator().manual_seed(4)
        patch = {key: ("diff", (torch.randn(weight.shape, generator=generator) * 0.1,))}

        def with_lora(model: Any) -> Any:
            patched = model.clone()
            assert patched.add_patches(patch) == [key]
            return patched

        positive = cond("flux", 2, references("flux"))
        first, second, without = (
            sample(guide(model, positive), "flux")
            for model in (
                place(with_lora(flux), LEFT, RIGHT),
                with_lora(place(flux, LEFT, RIGHT)),
                place(flux, LEFT, RIGHT),
            )
        )
        assert torch.equal(first, second) and differ(first, without)

    def test_controlnet(self, flux: Any, place: Any, registry: Any, attentions: Any) -> None:
        net = comfy.ldm.flux.controlnet.ControlNetFlux(
            **FLUX, operations=comfy.ops.disable_weight_init, dtype=torch.float32
        )
        generator = torch.Generator().manual_seed(7)
        for parameter in net.parameters():
            values = torch.randn(parameter.shape, generator=generator)
            parameter.data = 0.3 * values * parameter.shape[-1] ** -0.5
        control = comfy.controlnet.ControlNet(
            net, load_device=torch.device("cpu"), extra_conds=["y", "guidance"]
        )
        positive, negative = cond("flux", 2, references("flux")), cond("flux", 3)
        hint = torch.rand(1, 48, 64, 3)
        controlled = run_node(
            registry, "ControlNetApplyAdvanced", positive, negative, control, hint, 1.0, 0.0, 1.0
        )
        model = place(flux, LEFT, RIGHT)
        assert differ(
            sample(guide(model, *controlled), "flux", size=(6, 8)),
            sample(guide(model, positive, negative), "flux", size=(6, 8)),
        )
        assert follow_the_rule(attentions)

    def test_masked_and_several_conditionings(self, flux: Any, place: Any, attentions: Any) -> None:
        """Each with references of its own; one with a mask, one with another number of tokens."""
        mask = torch.zeros(1, 5, 8)
        mask[..., :4] = 1
        positive = cond("flux", 2, references("flux"), mask=mask, mask_strength=1.0)
        positive += cond("flux", 4, references("flux", seed=80), tokens=9)
        sample(guide(place(flux, LEFT, RIGHT), positive, cond("flux", 3)), "flux")
        assert {a.call.text for a in attentions} == {7, 9}
        assert follow_the_rule(attentions)

    @pytest.mark.parametrize("name", ["DualCFGGuider", "PerpNeg"])
    def test_guiders(
        self, flux: Any, place: Any, registry: Any, attentions: Any, name: str
    ) -> None:
        model, given = place(flux, LEFT, RIGHT), references("flux")
        texts = [cond("flux", seed, given) for seed in (2, 3, 4)]
        more = (4.0, 3.0, "regular") if name == "DualCFGGuider" else (4.0, 1.0)
        kind = "PerpNegGuider" if name == "PerpNeg" else name
        guider = run_node(registry, kind, model, *texts, *more)[0]
        sample(guider, "flux")
        assert follow_the_rule(attentions)

    @pytest.mark.parametrize("dim", [2, 3])
    def test_context_windows(
        self, flux: Any, place: Any, registry: Any, attentions: Any, dim: int
    ) -> None:
        model = run_node(
            registry, "ContextWindowsManual", place(flux, (0.75, 0.5, 1.0, 1.0), WHOLE),
            context_length=4, context_overlap=2, context_schedule="standard_static",
            context_stride=1, closed_loop=False, fuse_method="flat", dim=dim, freenoise=False,
        )[0]  # fmt: skip
        positive = cond("flux", 2, references("flux"))
        sample(guide(model, positive, cfg=1.0), "flux", size=(8, 12))
        windows = {a.call.rows[0].window[:2] for a in attentions}
        assert len(windows) > 1
        whole = [(len(rows) == 8, len(columns) == 12) for rows, columns in windows]
        assert set(whole) == {(dim == 3, dim == 2)}
        assert follow_the_rule(attentions)
