"""The example workflows, in API form, changed to run on the micro family."""

from typing import Any

from lab import ROOT
from lab.microworld.sprites import BACKGROUND, SPRITES

WORKFLOWS = ROOT / "example_workflows"
# How the micro family is sampled.
NEGATIVE = "low quality, worst quality, blurry"
STEPS, CFG = 20, 4.0
WHOLE_PICTURE = [0.0, 0.0, 1.0, 1.0]  # a box
PREVIEW, COLLAGE = "preview", "collage"  # ids of the nodes that show_layout adds
# The workflows' files, and the micro family's for each.
FILES = {
    "sd_xl_base_1.0.safetensors": "micro.safetensors",
    "clip_vision_g.safetensors": "micro_vision.safetensors",
    "ms_adapter.bin": "ms_adapter_micro.safetensors",
    "style_lora.safetensors": "micro_lora.safetensors",
    "controlnet-canny-sdxl-1.0.safetensors": "micro_controlnet.safetensors",
    "birefnet.safetensors": "micro_birefnet.safetensors",
    "sam3.1_multiplex_fp16.safetensors": "micro_sam3.safetensors",
}


def find(prompt: dict[str, Any], kind: str, title: str = "") -> str:
    """The id of the prompt's node of this class, and with this in its title."""
    return next(
        name
        for name, node in prompt.items()
        if node["class_type"] == kind and title in node["_meta"]["title"]
    )


def use_micro_files(
    prompt: dict[str, Any], width: int, height: int, steps: int, files: dict[str, str] = FILES
) -> dict[str, Any]:
    """The prompt with the micro family's files, the sprites as references and in the scene, another
    size in pixels and another number of steps."""
    for node in prompt.values():
        inputs, title = node["inputs"], node["_meta"]["title"]
        inputs |= {k: files[v] for k, v in inputs.items() if isinstance(v, str) and v in files}
        if node["class_type"] == "LoadImage" and title.startswith("Reference "):
            inputs["image"] = f"reference_{title.split()[1].rstrip(',')}.png"
        elif node["class_type"] == "LoadImage" and title.startswith("Scene"):
            inputs["image"] = "scene.png"
        for name, pixels in (("width", width), ("height", height)):
            if isinstance(inputs.get(name), int):  # not the layout's by a link
                inputs[name] = pixels
        if "steps" in inputs:
            inputs["steps"] = steps
    return prompt


def name_sprites(prompt: dict[str, Any]) -> list[str]:
    """Let the layout's phrases name the sprites; returns the phrases."""
    subjects = prompt[find(prompt, "MSDLayout")]["inputs"]["layout"]["subjects"]
    shapes = [shape for _, _, shape in SPRITES[: len(subjects)]]
    for subject, shape in zip(subjects, shapes, strict=True):
        subject["phrase"] = shape
    return shapes


def describe_sprites(prompt: dict[str, Any]) -> str:
    """Let the prompt's texts describe the sprites, and sample as the micro family needs it; returns
    the positive text."""
    shapes = name_sprites(prompt)
    text = f"{' and '.join(f'a {shape}' for shape in shapes)} on {BACKGROUND}"
    prompt[find(prompt, "CLIPTextEncode", "Positive")]["inputs"]["text"] = text
    for node in prompt.values():
        if node["class_type"] == "MSDAutoLayout":
            node["inputs"]["prompt"] = text
    prompt[find(prompt, "CLIPTextEncode", "Negative")]["inputs"]["text"] = NEGATIVE
    prompt[find(prompt, "KSampler")]["inputs"]["cfg"] = CFG
    prompt[find(prompt, "MSDApply")]["inputs"]["weight"] = 1.0
    return text


def show_layout(prompt: dict[str, Any]) -> None:
    """Add the nodes PREVIEW and COLLAGE, which give the layout's pictures."""
    for name, output in ((PREVIEW, 3), (COLLAGE, 4)):
        prompt[name] = {
            "class_type": "PreviewImage",
            "inputs": {"images": [find(prompt, "MSDLayout"), output]},
            "_meta": {"title": name},
        }
