"""MIP-Adapter files in the real host, against the research code's outputs: UNets of SDXL's and
SD1.5's shape, and whole runs."""

from dataclasses import replace
from typing import Any

import pytest
import test_golden_host
import torch
from comfy.k_diffusion.sampling import sample_euler
from golden import Golden, recipe
from golden_mip import D, F, build_unets, features_of, load_adapters
from models import build_clip
from sampling import (
    LEFT,
    POSITIVE,
    assert_same,
    differ,
    guide,
    noise,
    patch_of,
    sample,
    with_watch,
)

C = Golden("c_names", folder="golden_mip")
NOWHERE = (0.0, 0.0, 0.0, 0.0)


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return build_unets()


@pytest.fixture(scope="module")
def mip_adapters(pack: Any, models: dict[str, Any], tmp_path_factory: Any) -> dict[str, Any]:
    return load_adapters(pack, models, tmp_path_factory.mktemp("mip"), merges=True)


class Case(test_golden_host.Case):
    """One case of set d through Ground References and Apply, without boxes."""

    def __init__(self, pack: Any, models: Any, adapters: Any, name: str) -> None:
        self.name = name
        self.facts = facts = D.manifest["cases"][name]
        self.x = {key: D.tensor(entry) for key, entry in facts["inputs"].items()}
        self.plain, adapter = models[facts["unet"]], adapters[facts["adapter"]]
        kinds, blank = pack.module("nodes.subjects"), self.x.get("blank_features")
        subjects = [
            kinds.Subject("", NOWHERE, 1.0, torch.zeros(1, 8, 8, 3),
                          features=features_of(pack, given, blank))
            for given in self.x["features"].split(facts["photos"])
        ]  # fmt: skip
        pairs = zip(self.x["entity_text"], facts["name_lengths"], strict=True)
        names = [text[1 : 1 + length] for text, length in pairs]
        node = pack.module("nodes.ground_references")
        with pytest.MonkeyPatch.context() as monkeypatch:  # instead of the text encoders
            monkeypatch.setattr(node, "_checked_phrases", lambda *_: names)
            self.grounded = pack.MSDGroundReferences.execute(
                adapter, None, kinds.Subjects(tuple(subjects))
            )[0]
        self.patched = pack.MSDApply.execute(self.plain, adapter, self.grounded, facts["scale"])[0]

    def conditioning(self, text: str, pooled: str) -> Any:
        more = {"pooled_output": self.x[pooled]} if pooled in self.x else {}
        return [[self.x[text], more]]

    def check_eps(self) -> None:
        samples = [self.x["sample"]] * len(self.facts["timesteps"])
        for timestep, eps in zip(
            self.facts["timesteps"], self.eps(self.patched, samples), strict=True
        ):
            expected = D.outputs(f"{self.name}/t{timestep}/")["eps"]
            torch.testing.assert_close(eps, expected, atol=5e-5, rtol=0)


@pytest.mark.parametrize(
    "name", [name for name, case in D.manifest["cases"].items() if case["kind"] == "eps"]
)
@torch.inference_mode()
def test_eps(pack: Any, models: Any, mip_adapters: Any, name: str) -> None:
    Case(pack, models, mip_adapters, name).check_eps()


@pytest.mark.parametrize(
    "name", [name for name, case in D.manifest["cases"].items() if case["kind"] == "generate"]
)
@torch.inference_mode()
def test_generate(pack: Any, models: Any, mip_adapters: Any, name: str) -> None:
    case = Case(pack, models, mip_adapters, name)
    sigmas = torch.tensor(case.facts["sigmas"])
    x0 = case.x["sample"] * case.facts["init_noise_sigma"]

    def euler(denoise: Any, x: torch.Tensor, sigmas: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return sample_euler(denoise, x0, sigmas, **kwargs)

    final = case.sample(case.patched, euler, sigmas, torch.zeros_like(x0))
    final = case.plain.model.process_latent_in(final)
    expected = D.outputs(f"{name}/")["final_latents"]
    torch.testing.assert_close(final, expected, atol=1e-3, rtol=0)


def negative_rows_left_alone(pack: Any, monkeypatch: Any) -> None:
    branch = pack.module("nodes.sampling.merge_branch").MergeBranch
    monkeypatch.setattr(branch, "acts_on_all", False)


def keys_of_another_layer(pack: Any, monkeypatch: Any) -> None:
    apply = pack.module("nodes.apply")
    right = apply.text_keys

    def swapped(unet: Any) -> Any:
        keys = right(unet)
        keys[("input", 4, 0)], keys[("input", 5, 0)] = keys[("input", 5, 0)], keys[("input", 4, 0)]
        return keys

    monkeypatch.setattr(apply, "text_keys", swapped)


def strength_left_out(pack: Any, monkeypatch: Any) -> None:
    branch = pack.module("nodes.sampling.merge_branch")
    monkeypatch.setattr(
        branch, "text_strength", lambda text, weight: torch.ones_like(text[..., :1])
    )


MISTAKES = negative_rows_left_alone, keys_of_another_layer, strength_left_out


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda each: each.__name__.replace("_", " "))
@torch.inference_mode()
def test_mistake_is_caught(
    pack: Any, models: Any, mip_adapters: Any, mistake: Any, monkeypatch: Any
) -> None:
    mistake(pack, monkeypatch)
    with pytest.raises(AssertionError):
        Case(pack, models, mip_adapters, "sdxl_two").check_eps()


@torch.inference_mode()
def test_names(pack: Any) -> None:
    """Set f, through the node's function and the host's own CLIP: both encoders side by side."""
    clip = build_clip(F.manifest["text_l"], config_g=F.manifest["text_g"])
    for kind in "lg":
        own = getattr(clip.cond_stage_model, f"clip_{kind}").transformer.state_dict()
        for key, (shape, gain) in F.manifest["params"][kind].items():
            values = recipe.param(F.seed, F.manifest["prefixes"][kind] + key, shape, gain)
            own[key].copy_(torch.from_numpy(values).half().float())
    tokens = pack.module("nodes.ground_references").phrase_tokens
    for name, expected in F.outputs("text/").items():
        torch.testing.assert_close(tokens(clip, name), expected, atol=1e-5, rtol=0)
    for row in C.manifest["rows"]:  # of the host's first 77 places the begin token is no name's
        assert len(tokens(clip, row["name"])) == min(row["tokens"], 76), row["name"]


@pytest.fixture
def case(pack: Any, models: Any, mip_adapters: Any) -> Case:
    return Case(pack, models, mip_adapters, "sdxl_two")


@pytest.fixture
def applied(pack: Any, models: Any, mip_adapters: Any, case: Case) -> Any:
    """applied(weight, subjects or the case's, model or the plain one)."""

    def run(weight: float = 0.75, subjects: Any = None, model: Any = None) -> Any:
        return pack.MSDApply.execute(
            model or models["sdxl"], mip_adapters["sdxl_linear"], subjects or case.grounded, weight
        )[0]

    return run


class TestRun:
    def test_all_rows_change(self, applied: Any) -> None:
        watched, calls = with_watch(applied(), POSITIVE)
        sample(guide(watched), batch=2)
        assert calls and all(all(changed) for changed, _ in calls)

    def test_boxes_do_not_matter(self, applied: Any, case: Case, caplog: Any) -> None:
        boxed = tuple(replace(subject, box=LEFT) for subject in case.grounded.subjects)
        expected = sample(guide(applied()))
        assert torch.equal(
            sample(guide(applied(subjects=replace(case.grounded, subjects=boxed)))), expected
        )
        assert not caplog.records, "a subject without a box isn't missing"

    def test_auto_layout_has_nothing_to_do(
        self, pack: Any, applied: Any, case: Case, caplog: Any
    ) -> None:
        auto = pack.module("nodes.subjects").AutoLayoutSettings(0.5, 1)
        model = applied(subjects=replace(case.grounded, auto_layout=auto))
        assert "Auto Layout has nothing to do" in caplog.text
        assert torch.equal(sample(guide(model)), sample(guide(applied())))

    def test_weight_0_leaves_every_row_as_it_is(self, models: Any, applied: Any) -> None:
        assert torch.equal(sample(guide(applied(0.0))), sample(guide(models["sdxl"])))

    def test_a_subject_s_weight_leaves_the_negative_rows(self, applied: Any, case: Case) -> None:
        first, second = case.grounded.subjects
        halved = replace(case.grounded, subjects=(replace(first, weight=0.5), second))
        halves = applied(subjects=halved)
        mine, other = (patch_of(each).branch.blank_keys_values for each in (halves, applied()))
        for block, pair in mine.items():
            assert all(map(torch.equal, pair, other[block]))
        assert differ(sample(guide(halves)), sample(guide(applied())))

    def test_what_is_missing_is_named(self, applied: Any, case: Case) -> None:
        """As in a file of subjects that was made by hand."""
        first, second = case.grounded.subjects
        for missing in ("name_tokens", "blank_image_tokens"):
            two = (first, replace(second, **{missing: None}))
            with pytest.raises(ValueError, match="subject 2 has no blank image tokens or no name"):
                applied(subjects=replace(case.grounded, subjects=two))

    def test_a_negative_reference(
        self, pack: Any, applied: Any, case: Case, mip_adapters: Any
    ) -> None:
        """Its tokens are in the negative rows, as they'd be a subject's; else nothing changes."""
        (blank,) = noise(7, 1, case.grounded.subjects[0].features.pooled.shape[1])
        adapter = mip_adapters["sdxl_linear"].model
        tokens = adapter.image_tokens(blank[None], torch.empty(0), torch.empty(0), True)[0]
        expected, changed = [], []
        for subject in case.grounded.subjects:
            expected.append(replace(subject, blank_image_tokens=tokens))
            features = replace(subject.features, blank_pooled=blank)
            changed.append(replace(subject, features=features))
        node = pack.module("nodes.ground_references")
        names = [subject.name_tokens for subject in changed]
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setattr(node, "_checked_phrases", lambda *_: names)
            changed = replace(case.grounded, subjects=tuple(changed))
            grounded = pack.MSDGroundReferences.execute(mip_adapters["sdxl_linear"], None, changed)[
                0
            ]
        expected = applied(subjects=replace(case.grounded, subjects=tuple(expected)))
        with_it = applied(subjects=grounded)
        assert torch.equal(sample(guide(with_it)), sample(guide(expected)))
        assert differ(sample(guide(with_it)), sample(guide(applied())))
        first, second = (sample(guide(each, cfg=1.0)) for each in (with_it, applied()))
        assert torch.equal(first, second)

    def test_two_in_a_row_do_not_feed_on_each_other(self, applied: Any) -> None:
        """What weighs the references is the text alone: twice at half the weight is once."""
        twice = applied(0.375, model=applied(0.375))
        assert_same(sample(guide(twice)), sample(guide(applied(0.75))))

    def test_beside_an_adapter_in_boxes(
        self, apply: Any, subjects: Any, models: Any, applied: Any
    ) -> None:
        in_box = subjects(LEFT)
        first = applied(model=apply(models["sdxl"], in_box))
        second = apply(applied(), in_box)
        assert_same(sample(guide(first)), sample(guide(second)))
        assert differ(sample(guide(first)), sample(guide(applied())))

    def test_without_a_name(self, applied: Any, case: Case) -> None:
        """An even map, where the research code gives no numbers."""
        first, second = case.grounded.subjects
        nameless = replace(first, name_tokens=first.name_tokens[:0])
        for others in ((nameless, second), (nameless, nameless)):
            picture = sample(guide(applied(subjects=replace(case.grounded, subjects=others))))
            assert picture.isfinite().all() and differ(picture, sample(guide(applied())))

    @pytest.mark.parametrize("after", [False, True])
    def test_a_lora_on_the_text_keys_holds(self, models: Any, applied: Any, after: bool) -> None:
        """Before or after MSD Apply, the names' keys are those of the model with it."""
        sample(guide(models["sdxl"]))  # so that its weights are its own again
        name = "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"
        weight = models["sdxl"].model.state_dict()[name]
        patch, before = {name: ("diff", (noise(1, *weight.shape),))}, weight.clone()

        def with_lora(model: Any) -> Any:
            cloned = model.clone()
            assert cloned.add_patches(patch, 1.0)
            return cloned

        chosen = with_lora(applied()) if after else applied(model=with_lora(models["sdxl"]))
        found, branch = [], patch_of(chosen).branch
        key = branch.text_keys[("input", 4, 0)]
        handle = key.register_forward_hook(lambda _, given, out: found.append((given[0], out)))
        sample(guide(chosen))
        handle.remove()
        expected = before + patch[name][1][0]
        names = [pair for pair in found if pair[0].shape[1] == branch.names.shape[1]]
        assert len(names) == 3
        for given, out in names:
            torch.testing.assert_close(out, given @ expected.T, atol=1e-3, rtol=1e-3)
