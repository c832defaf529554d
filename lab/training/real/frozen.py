"""A frozen checkpoint in the host's own model code, with gradients through it, and an image branch
beside each of its text cross-attentions."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lab.training.real.batches import Batch
from msd_core.adapters.family import Adapter
from msd_core.models.unet import check_fit, cross_attentions, module_shapes, text_keys

# Query [n, N, C], heads, height and width of its grid, and the text attention [n, N, C] -> what is
# added to the latter.
ImageBranch = Callable[[Tensor, int, tuple[int, int], Tensor], Tensor]


class Frozen:
    """Such a model.

    Args:
        model: the host's model patcher of the checkpoint.
        adapter: must fit its cross-attentions.
    Raises:
        ValueError: it doesn't.
    """

    def __init__(self, model: Any, adapter: Adapter) -> None:
        self.model = model
        self.load()
        self.device: torch.device = model.load_device
        self.base: Any = model.model.requires_grad_(False)
        self.unet: nn.Module = self.base.diffusion_model
        attentions = cross_attentions(module_shapes(self.unet))
        check_fit(attentions, adapter.layers)
        self.blocks = [attention.block for attention in attentions]
        keys = text_keys(self.unet)
        self.text_keys = [keys[block] for block in self.blocks]

    def load(self) -> None:
        """Have all of it on the device, and no other of the host's models."""
        import comfy.model_management

        comfy.model_management.unload_all_models()
        comfy.model_management.load_models_gpu([self.model], force_full_load=True)
        comfy.model_management.soft_empty_cache()

    def recompute(self) -> None:
        """Compute what is inside a transformer block again for the gradients, instead of keeping
        it: less memory for more time."""
        for module in self.unet.modules():
            if type(module).__name__ == "BasicTransformerBlock":
                module.forward = _recomputed(module.forward)

    def error(self, batch: Batch, branches: Sequence[ImageBranch] = ()) -> tuple[Tensor, Tensor]:
        """Squared error of the predicted noise [n], whatever the model predicts, and the
        signal-to-noise ratios [n].

        Args:
            branches: of each cross-attention in released order; none leave the model as it is.
        """
        sampling = self.base.model_sampling
        sigmas = sampling.sigmas.to(batch.latents)[batch.timesteps]
        sigma = sigmas[:, None, None, None]
        more = {}
        if batch.pooled is not None:
            height, width = (8 * edge for edge in batch.latents.shape[-2:])
            more["y"] = self.base.encode_adm(
                pooled_output=batch.pooled, width=width, height=height, device=self.device
            )
        patches = {
            block: _patch(branch)
            for block, branch in zip(self.blocks, branches, strict=bool(branches))
        }
        denoised = self.base.apply_model(
            sampling.noise_scaling(sigma, batch.noise, batch.latents, False),
            sigmas,
            c_crossattn=batch.context,
            transformer_options={"patches_replace": {"attn2": patches}, "sigmas": sigmas},
            **more,
        )
        error = ((denoised.float() - batch.latents) / sigma).square().mean((1, 2, 3))
        return error, sigmas**-2


def _patch(branch: ImageBranch) -> Callable[..., Tensor]:
    from comfy.ldm.modules.attention import optimized_attention

    attention: Any = optimized_attention

    def attend(q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any]) -> Tensor:
        heads = options["n_heads"]
        text: Any = attention(q, k, v, heads, attn_precision=options["attn_precision"])
        height, width = options["activations_shape"][-2:]
        return text + branch(q, heads, (height, width), text).to(text)

    return attend


def _recomputed(forward: Callable[..., Tensor]) -> Callable[..., Any]:
    def run(*args: Any, transformer_options: dict[str, Any], **kwargs: Any) -> Any:
        # Copied: when it is computed again, the host has noted other layers in its own.
        kwargs["transformer_options"] = dict(transformer_options)
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    return run
