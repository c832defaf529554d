"""Golden sets c, d and f in the real host, through our nodes."""

from typing import Any

import comfy.samplers
import pytest
import torch
from golden import Golden, recipe
from models import build_sdxl, fill_from_recipe
from safetensors.torch import save_file

C, D = Golden("c_phrases"), Golden("d_unet")
SEED = D.seed


@pytest.fixture(scope="module")
def unets() -> dict[str, Any]:
    built = {}
    for name, depth in (("tiny", (1, 2)), ("topo70", (2, 10))):
        built[name] = build_sdxl(depth)
        fill_from_recipe(built[name], SEED, D.manifest["unet_param_prefix"][name])
    return built


@pytest.fixture(scope="module")
def adapters(pack: Any, unets: dict[str, Any], tmp_path_factory: Any) -> dict[str, Any]:
    """The adapter of each UNet, from a file, through the loader node."""
    import folder_paths

    folder = tmp_path_factory.mktemp("ms_diffusion")
    folder_paths.add_model_folder_path("ms_diffusion", str(folder))
    cross_attentions = pack.module("msd_core.sdxl").cross_attentions
    loaded = {}
    for name, unet in unets.items():
        prefix = D.manifest["ms_param_prefix"][name]
        keys = {k: row["shape"] for k, row in D.manifest["ms_params_tiny"].items()
                if k.startswith("image_proj.")}  # fmt: skip
        shapes = {k: v.shape for k, v in unet.model.diffusion_model.state_dict().items()}
        for attention in cross_attentions(shapes):
            for kind in ("to_k_ip", "to_v_ip"):
                keys[f"ms_adapter.{attention.key_index}.{kind}.weight"] = [attention.width, 64]
        keys["dummy_image_tokens"] = [1, 4, 64]
        sd = {
            k: torch.from_numpy(recipe.param(SEED, prefix + k, shape)) for k, shape in keys.items()
        }
        save_file(sd, folder / f"{name}.safetensors")
        loaded[name] = pack.MSDLoadAdapter.execute(f"{name}.safetensors")[0]
    return loaded


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
                    photos=torch.zeros(1, 8, 8, 3),
                    image_tokens=tokens[n : n + 1],
                    prompt_tokens=tuple(range(*spans[n])),
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
        the stored inputs instead of what it has got to."""
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
    for _ in range(2):  # a second run starts anew
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
