"""Stages ip_adapter and mip_adapter: adapters of these families on the frozen base of the micro
world. They start from as much of the base's MS-Diffusion adapter as the families share, so that the
three compare after the same training."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from lab.training.config import StageSettings
from lab.training.dataset import Drops, NoisyScenes
from lab.training.draws import scatter
from lab.training.family import ImageBranch, SubjectBatch, TextAttention
from lab.training.stages.denoising import DenoisingTask, denoising_losses
from lab.training.state import load_ema
from lab.training.task import Losses
from msd_core import MSAdapter
from msd_core.adapters.ip_adapter import IPAdapter
from msd_core.adapters.mip_adapter import MIPAdapter
from msd_core.attention.merge import merged_attention, name_weights, text_strength
from msd_core.attention.subjects import split_heads, subject_attention, subject_mask

KINDS: dict[str, type[IPAdapter]] = {"ip_adapter": IPAdapter, "mip_adapter": MIPAdapter}
# Neither has a grounding: here these samples have blank image tokens, as rows of negative
# conditionings do.
DROPS = Drops(text=0.1, image=0.0, both=0.0, full_caption=(0.25, 0.25), masks=0.0, grounding=0.1)


class IPAdapterTask(DenoisingTask):
    """An adapter whose references are in boxes, or follow their names."""

    def __init__(self, settings: StageSettings, folder: Path, device: torch.device) -> None:
        super().__init__(settings, folder, DROPS)
        self.family.load_state_dict(load_ema(folder, "base"))
        self.family.requires_grad_(False)
        self.adapter = start_from(self.family.adapter, KINDS[settings.stage])
        self.to(device)

    @property
    def trained(self) -> nn.Module:
        return self.adapter

    def forward(self, micro_batch: NoisyScenes) -> Losses:
        batch = micro_batch.to(self.family.device)
        return denoising_losses(
            self.noise(batch.noisy, batch.timesteps, batch.texts, batch.subjects), batch
        )

    def noise(
        self, noisy: Tensor, timesteps: Tensor, texts: Sequence[str], subjects: SubjectBatch
    ) -> Tensor:
        """Predicted noise, as `Family.forward` gives it."""
        tokens = self.image_tokens(subjects)
        if self.adapter.text_weights is None:
            branch = self.covered(tokens, subjects, noisy)
        else:
            branch = self.merged(tokens, subjects)
        return self.family.denoise(noisy, timesteps, texts, branch)

    def image_tokens(self, subjects: SubjectBatch) -> Tensor:
        """[m, T, C] of all m subjects."""
        tokens = self.adapter.image_proj(self.family.features(subjects.references))
        hidden_states = self.family.hidden_states(torch.zeros_like(subjects.references[:1]))
        blank = self.adapter.blank_image_tokens(hidden_states[0])
        dropped = subjects.drop_grounding[:, None].expand_as(subjects.present)[subjects.present]
        return torch.where(dropped[:, None, None], blank, tokens)

    def covered(self, tokens: Tensor, subjects: SubjectBatch, noisy: Tensor) -> ImageBranch:
        """References in boxes."""
        keys_values = self.adapter.keys_and_values(scatter(tokens, subjects.present))
        masks = {
            queries: subject_mask(coverage, tokens.shape[1], noisy.dtype)
            for queries, coverage in subjects.coverages(noisy).items()
        }

        def image_branch(layer: int, q: Tensor, heads: int, text: TextAttention) -> Tensor:
            key, value = (split_heads(x, heads) for x in keys_values[layer])
            return subject_attention(q, key, value, masks[q.shape[1]])

        return image_branch

    def merged(self, tokens: Tensor, subjects: SubjectBatch) -> ImageBranch:
        """References that follow their names, of one token each."""
        keys_values = self.adapter.keys_and_values(tokens)
        words = sorted(set(subjects.phrases))
        of_words = self.family.text(words)[0][:, 1]  # [words, C], behind the begin token
        names = of_words[[words.index(phrase) for phrase in subjects.phrases]]
        scenes = subjects.present.nonzero()[:, 0]
        own = [(scenes == n).nonzero()[:, 0] for n in range(len(subjects.present))]
        text_weights = self.adapter.text_weights or []

        def image_branch(layer: int, q: Tensor, heads: int, text: TextAttention) -> Tensor:
            name_keys = self.family.text_keys[layer](names)
            outs = []
            for query, rows in zip(q.split(1), own, strict=True):
                key, value = (
                    split_heads(x[rows].flatten(0, 1)[None], heads) for x in keys_values[layer]
                )
                shares = torch.eye(len(rows), device=q.device)
                weights = name_weights(query, name_keys[rows][None], heads, shares)
                outs.append(merged_attention(query, key, value, weights))
            return torch.cat(outs) * text_strength(text.out, text_weights[layer]).to(q)

        return image_branch


def start_from(adapter: MSAdapter, kind: type[IPAdapter]) -> IPAdapter:
    """An adapter with the weights of an MS-Diffusion adapter that the families share: the
    perceiver, from the latents that it has without grounding, and the projections."""
    own = {name: value.detach().clone() for name, value in adapter.state_dict().items()}
    sd = {"image_proj.latents": own["image_proj.grounding_latents"]}
    for part in ("proj_in", "proj_out", "norm_out", "layers"):
        prefix = f"image_proj.{part}."
        sd |= {name: value for name, value in own.items() if name.startswith(prefix)}
    # IP-Adapter has no norm in front of this layer, whose scale and shift go into it.
    scale, shift = (own[f"image_proj.attention_norm.{part}"] for part in ("weight", "bias"))
    weight = sd["image_proj.proj_out.weight"]
    sd["image_proj.proj_out.bias"] += weight @ shift
    sd["image_proj.proj_out.weight"] = weight * scale
    for number, (width, _) in zip(
        range(1, 2 * len(adapter.layers), 2), adapter.layers, strict=True
    ):
        for name in ("to_k_ip", "to_v_ip"):
            sd[f"ip_adapter.{number}.{name}.weight"] = own[f"ms_adapter.{number}.{name}.weight"]
        if kind is MIPAdapter:  # even over all queries
            sd[f"ip_adapter.{number}.text_to_weight.weight"] = torch.zeros(1, width)
    return kind.from_state_dict(sd, adapter.metadata()).requires_grad_(True)
