"""Golden sets c, d and f in the real host, through our nodes."""

from pathlib import Path
from typing import Any

import comfy.samplers
import numpy as np
import pytest
import torch
from golden import Golden, recipe
from models import build_clip, build_vision

C, D, F = Golden("c_phrases"), Golden("d_unet"), Golden("f_encoders")
PREFIX = {
    "text_model": "clip_l.",
    "vision_model": "clip_vision.",
    "visual_projection": "clip_vision.",
}


class Case:
    """One case of set d, its model patched by MSDApply."""

    def __init__(self, pack: Any, unets: dict[str, Any], adapters: dict[str, Any], name: str):
        self.name = name
        self.facts = facts = D.manifest["cases"][name]
        self.x = {key: D.tensor(entry) for key, entry in facts["inputs"].items()}
        self.plain = unets[facts["unet"]]
        adapter = adapters[facts["unet"]]
        self.patched = pack.MSDApply.execute(
            self.plain, adapter, self.subjects(pack, adapter), weight=self.weight
        )[0]

    @property
    def weight(self) -> float:
        return self.facts["scale"] if self.facts["subject_scales"] is None else 1.0

    def subjects(self, pack: Any, adapter: Any) -> Any:
        facts, kinds = self.facts, pack.module("nodes.subjects")
        boxes = torch.tensor(facts["boxes"])
        drop = torch.tensor(facts["drop_grounding_tokens"]).bool().expand(len(boxes))
        tokens = adapter.model.resampler(
            self.x["image_embeds"], self.x["phrase_embeds"], boxes, drop
        )
        spans = facts.get("phrase_idxes") or [[0, 0]] * len(boxes)
        auto = None
        if facts.get("mask_threshold") is not None:
            auto = kinds.AutoLayoutSettings(facts["mask_threshold"], facts["start_step"])
        return kinds.Subjects(
            tuple(
                kinds.Subject(
                    phrase="",
                    box=tuple(box),
                    weight=(facts["subject_scales"] or [1.0] * len(boxes))[n],
                    references=torch.zeros(1, 8, 8, 3),
                    image_tokens=tokens[n : n + 1],
                    token_positions=tuple(range(*spans[n])),
                )
                for n, box in enumerate(facts["boxes"])
            ),
            auto,
        )

    def conditioning(self, text: str, pooled: str) -> Any:
        return [[self.x[text], {"pooled_output": self.x[pooled]}]]

    def sample(self, model: Any, function: Any, sigmas: torch.Tensor, noise: torch.Tensor) -> Any:
        """Run the host's guider with a sampler function of ours."""
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(self.conditioning("pos", "pos_pool"), self.conditioning("neg", "neg_pool"))
        guider.set_cfg(self.facts.get("guidance_scale", 7.5))
        return guider.sample(
            noise, torch.zeros_like(noise), comfy.samplers.KSAMPLER(function), sigmas,
            disable_pbar=True,
        )  # fmt: skip

    def eps(self, model: Any, samples: list[torch.Tensor]) -> list[torch.Tensor]:
        """The UNet's own outputs, rows as in the batch, at the case's timesteps; the sampler feeds
        the stored inputs instead of its own latent."""
        outputs: list[torch.Tensor] = []
        seen = model.clone()

        def watch(executor: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
            assert args[5]["cond_or_uncond"] == [1, 0]
            outputs.append(executor(*args, **kwargs))
            return outputs[-1]

        seen.add_wrapper_with_key("diffusion_model", "watch", watch)
        sampling = model.get_model_object("model_sampling")
        timesteps = torch.tensor(self.facts["timesteps"])
        sigmas = torch.cat((sampling.sigma(timesteps), torch.zeros(1)))

        def feed(denoise: Any, x: torch.Tensor, sigmas: torch.Tensor, extra_args: Any, **_: Any):
            for sample, sigma in zip(samples, sigmas[:-1], strict=True):
                scaled = sample * (sigma**2 + 1) ** 0.5  # the host divides by this
                denoise(scaled, sigma.expand(len(x)), **extra_args)
            return x

        self.sample(seen, feed, sigmas, torch.zeros_like(samples[0]))
        return outputs


@pytest.fixture
def case(request: Any, pack: Any, unets: Any, adapters: Any) -> Case:
    return Case(pack, unets, adapters, request.param)


def cases(kind: str) -> list[str]:
    return [name for name, facts in D.manifest["cases"].items() if facts["kind"] == kind]


@pytest.mark.parametrize("case", cases("eps"), indirect=True)
@torch.inference_mode()
def test_eps(case: Case) -> None:
    samples = [case.x["sample"]] * len(case.facts["timesteps"])
    ours, plain = case.eps(case.patched, samples), case.eps(case.plain, samples)
    for timestep, eps, untouched in zip(case.facts["timesteps"], ours, plain, strict=True):
        expected = D.outputs(f"{case.name}/t{timestep}/")
        torch.testing.assert_close(eps, expected["eps"], atol=5e-5, rtol=0)
        half = len(eps) // 2
        assert torch.equal(eps[:half], untouched[:half]), "uncond rows must not change at all"
        if "eps_plain_cond" in expected:
            torch.testing.assert_close(
                untouched[half:], expected["eps_plain_cond"], atol=5e-5, rtol=0
            )
        if case.facts["scale"] == 0:
            assert torch.equal(eps, untouched)


@pytest.mark.parametrize("case", cases("pseudo"), indirect=True)
@torch.inference_mode()
def test_eps_with_auto_layout(case: Case) -> None:
    shape = (case.facts["num_samples"], 4, case.facts["side"], case.facts["side"])
    name = case.facts["sample_per_step"].replace("<case>", case.name)
    steps = range(len(case.facts["timesteps"]))
    samples = [D.array(name.replace("<k>", str(step)), shape) for step in steps]
    for _ in range(2):  # a second run begins at the first step again
        for step, eps in enumerate(case.eps(case.patched, samples)):
            expected = D.outputs(f"{case.name}/step{step}/")["eps"]
            torch.testing.assert_close(eps, expected, atol=5e-5, rtol=0)


@pytest.mark.parametrize("case", cases("generate"), indirect=True)
@torch.inference_mode()
def test_generate(case: Case) -> None:
    from comfy.k_diffusion.sampling import sample_euler

    sigmas = torch.tensor(case.facts["sigmas"])
    x0 = case.x["sample"] * case.facts["init_noise_sigma"]

    def euler(denoise: Any, x: torch.Tensor, sigmas: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return sample_euler(denoise, x0, sigmas, **kwargs)

    final = case.sample(case.patched, euler, sigmas, torch.zeros_like(x0))
    final = case.plain.model.process_latent_in(final)
    expected = D.outputs(f"{case.name}/")
    torch.testing.assert_close(final, expected["final_latents"], atol=1e-3, rtol=0)


def test_phrases() -> None:
    """Set c, with the host's own tokenizer: true positions where the research code miscounts."""
    from comfy.sd1_clip import SDTokenizer

    from msd_core.phrases import phrase_span

    tokenizer = SDTokenizer().tokenizer
    for row in C.manifest["rows"]:
        seen: dict[str, int] = {}
        spans = []
        for phrase in row["phrases"]:
            occurrence = seen.get(phrase, 0)
            spans.append(list(phrase_span(tokenizer, phrase, row["prompt"], occurrence)))
            seen[phrase] = occurrence + 1
        assert spans == row["position_if_counter_advanced_over_skips"], row["prompt"]


def stored_reference(name: str, golden: Golden = F) -> torch.Tensor:
    """A reference of a set f, as the host's LoadImage would give it: [h, w, 3] in 0..1."""
    mine, prefix = golden is F, "input/img/" if golden is F else "input/f/"
    facts = golden.manifest["images"][name] if mine else golden.manifest["cases"][f"picture/{name}"]
    height, width, block = facts["height"], facts["width"], facts["block"]
    low_shape = (-(-height // block), -(-width // block), 3)
    low = recipe.array(golden.seed, f"{prefix}{name}/low", low_shape, 128, 50)
    noise = recipe.array(golden.seed, f"{prefix}{name}/noise", (height, width, 3), 0, 12)
    blocks = np.kron(low, np.ones((block, block, 1), np.float32))[:height, :width]
    pixels = np.floor(blocks + noise + 0.5).clip(0, 255)
    assert pixels.sum(dtype=np.int64) == facts["input_sum"]
    return torch.from_numpy(pixels.astype(np.float32) / 255)


@pytest.mark.parametrize("name", F.manifest["images"])
def test_preprocessing(pack: Any, name: str) -> None:
    prepare = pack.module("nodes.encode_references").prepare_reference
    reference = prepare(stored_reference(name), None, "stretch", "black", 224)
    stored = F.outputs("pre/")[name]
    assert torch.equal((reference * 255).round().byte().movedim(-1, 0), stored.byte())
    cropped = prepare(stored_reference("wide"), None, "crop", "black", 224)
    assert not torch.equal((cropped * 255).round().byte().movedim(-1, 0), F.outputs("pre/")["wide"])


@torch.inference_mode()
def test_image_features(pack: Any, tmp_path: Path) -> None:
    """Through MSDEncodeReferences and the host's own vision encoder."""
    vision = build_vision(tmp_path, **F.manifest["vision_config"])
    fill(vision.model, F.manifest["vision_params"])
    kinds = pack.module("nodes.subjects")
    subject = kinds.Subject("", (0.0, 0.0, 1.0, 1.0), 1.0, stored_reference("wide")[None])
    encoded = pack.MSDEncodeReferences.execute(vision, kinds.Subjects((subject,)))[0]
    expected = F.outputs("vision/")["penultimate"]
    features = encoded.subjects[0].features.hidden_states
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=0)
    last = vision.encode_image(torch.zeros(1, 224, 224, 3))["last_hidden_state"]
    assert (last - expected).abs().max() > 0.1, "the last layer must not pass for the one before"


@torch.inference_mode()
def test_phrase_embeddings(pack: Any) -> None:
    """Through the node's function and the host's own CLIP."""
    clip = build_clip(F.manifest["text_config"])
    fill(clip.cond_stage_model.clip_l.transformer, F.manifest["text_params"])
    embeds = pack.module("nodes.ground_references").phrase_embeds(clip, F.manifest["phrases"])
    torch.testing.assert_close(embeds, F.outputs("text/")["pooler_output"], atol=1e-5, rtol=0)
    # The projected embedding, which the host gives by default, is another one. (SDXL checkpoints
    # hold no projection for it, so that there it is whatever lay in memory.)
    clip.cond_stage_model.clip_l.transformer.text_projection.weight.copy_(torch.eye(96) / 2)
    tokens = clip.tokenize(F.manifest["phrases"][0])["l"]
    projected = clip.cond_stage_model.clip_l.encode_token_weights(tokens)[1]
    assert (projected[0] - embeds[0]).abs().max() > 0.1


def fill(module: torch.nn.Module, parameters: dict[str, Any]) -> None:
    """Set f's weights: recipe values rounded to float16."""
    own = module.state_dict()
    for key, (shape, gain) in parameters.items():
        values = recipe.param(F.seed, f"{PREFIX[key.split('.')[0]]}{key}", shape, gain)
        own[key].copy_(torch.from_numpy(values).half().float())
