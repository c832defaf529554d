"""Tiny networks with random weights, of the classes that scores and sets come from, saved as
transformers saves them."""

import os
from pathlib import Path

import torch
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTokenizer,
    Dinov2Config,
    Dinov2Model,
    Owlv2Config,
    Owlv2ForObjectDetection,
    Owlv2ImageProcessor,
    Owlv2Processor,
    Sam2Config,
    Sam2ImageProcessor,
    Sam2Model,
    Sam2Processor,
    ViTConfig,
    ViTModel,
)

NARROW = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
END = 49407  # CLIP's token
TOKENIZER = Path(os.environ["COMFYUI_PATH"]) / "comfy" / "sd1_tokenizer"  # CLIP's own


def save_encoders(folder: Path) -> dict[str, Path]:
    """Save them, and return their folders by the options' names."""
    torch.manual_seed(0)
    # Wide weights, so that what differs in a picture shows in its features.
    plain = {"initializer_range": 0.4, "intermediate_size": 64, **NARROW}
    text = {**plain, "eos_token_id": END, "bos_token_id": END - 1, "pad_token_id": END}
    clip = CLIPConfig(
        text_config=text, vision_config={**plain, "patch_size": 32}, projection_dim=24
    )
    dino = ViTConfig(**plain, patch_size=32)
    dinov2 = Dinov2Config(initializer_range=0.4, mlp_ratio=2, patch_size=28, **NARROW)
    owlv2 = Owlv2Config(
        text_config={**text, "pad_token_id": 0},
        vision_config={**plain, "image_size": 96, "patch_size": 16},
        projection_dim=32,
    )
    folders = {name: folder / name for name in ("clip", "dino", "dinov2", "owlv2")}
    CLIPModel(clip).save_pretrained(folders["clip"])
    ViTModel(dino, add_pooling_layer=False).save_pretrained(folders["dino"])
    Dinov2Model(dinov2).save_pretrained(folders["dinov2"])
    detector = Owlv2ForObjectDetection(owlv2)
    with torch.no_grad():
        for weight in detector.box_head.parameters():
            weight *= 0.2  # so that boxes keep near their patches
        for layer in (detector.class_head.logit_shift, detector.class_head.logit_scale):
            layer.weight *= 0.05  # so that no two scores are 1
    detector.save_pretrained(folders["owlv2"])
    CLIPTokenizer.from_pretrained(TOKENIZER).save_pretrained(folders["clip"])
    Owlv2Processor(
        image_processor=Owlv2ImageProcessor(size={"height": 96, "width": 96}),
        tokenizer=CLIPTokenizer.from_pretrained(TOKENIZER, pad_token="!", model_max_length=16),
    ).save_pretrained(folders["owlv2"])
    return folders


def save_segmenter(folder: Path) -> Path:
    """Save a SAM2, and return its folder."""
    torch.manual_seed(0)
    stages = [8, 16, 32, 64]
    backbone = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": stages[0],
        "image_size": [128, 128],
        "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": stages,
        "num_attention_heads_per_stage": [1, 1, 1, 1],
        "window_size_per_stage": [8, 4, 4, 4],
        "global_attention_blocks": [3],
    }
    vision = {
        "backbone_config": backbone,
        "backbone_channel_list": stages[::-1],
        "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
        "fpn_hidden_size": 32,
    }
    decoder = {"mlp_dim": 64, "num_attention_heads": 2, "iou_head_hidden_dim": 32}
    config = Sam2Config(
        vision_config=vision,
        prompt_encoder_config={"hidden_size": 32, "image_size": 128},
        mask_decoder_config={"hidden_size": 32, **decoder},
    )
    model = Sam2Model(config)
    with torch.no_grad():
        for weight in model.mask_decoder.parameters():
            weight *= 8  # so that masks differ by their boxes
    model.save_pretrained(folder / "sam2")
    Sam2Processor(
        image_processor=Sam2ImageProcessor(size={"height": 128, "width": 128}), target_size=128
    ).save_pretrained(folder / "sam2")
    return folder / "sam2"
