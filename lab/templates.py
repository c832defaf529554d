"""The cards of the example workflows: python -m lab.templates

Runs each workflow on a real server with the micro family, and writes its layout beside its picture,
or its references where there are no boxes. The family has no LoRA, ControlNet or IPAdapter: these
are bypassed, and the card says so; it says too where something stands in for BiRefNet or SAM3. For
other models the card shows the collage in place of a picture. So it does for IP-Adapter and
MIP-Adapter, unless --models has those of the micro world, which aren't in the repository: python -m
lab.training import, train --stage ip_adapter mip_adapter, and export.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont

from lab.host import host_folder
from lab.host.server import PromptError, Server
from lab.host.workflows import (
    COLLAGE,
    FILES,
    PREVIEW,
    STEPS,
    WHOLE_PICTURE,
    WORKFLOWS,
    describe_sprites,
    find,
    name_sprites,
    show_layout,
    use_micro_files,
)
from lab.microworld import MODELS
from lab.microworld.files import save_segmenters
from lab.microworld.scenes import BACKGROUNDS, SIZES, draw_background, to_pil
from lab.microworld.sprites import BACKGROUND, SPRITES, save_sprites

HEIGHT = 320  # of a template's picture, in pixels
# Nodes to bypass: what the card calls them, and the inputs that replace their outputs.
BYPASSED = {
    "LoraLoader": ("LoRA", ("model", "clip")),
    "ControlNetApplyAdvanced": ("ControlNet", ("positive", "negative")),
    "IPAdapterUnifiedLoader": ("IPAdapter", ("model",)),
    "IPAdapter": ("IPAdapter", ("model",)),
}
# Nodes whose model something stands in for: what the card says.
STAND_INS = {
    "RemoveBackground": "masks: stand-in for BiRefNet",
    "SAM3_Detect": "boxes, masks: stand-in for SAM3",
}
LOADER = "MSDLoadAdapter"
# Files of other families, and the micro world's for each.
OTHERS = {
    "ip-adapter-plus_sdxl_vit-h.safetensors": "ip_adapter_micro.safetensors",
    "model_sdxl_plus.bin": "mip_adapter_micro.safetensors",
}
CLIP_VISION_H = "CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors"
BACKGROUND_REFERENCE = "background.png"


def nearest_size(prompt: dict[str, Any]) -> tuple[int, int]:
    """The micro family's width and height that are nearest to the picture's aspect."""
    sizes = (node["inputs"] for node in prompt.values() if "height" in node["inputs"])
    inputs = next(size for size in sizes if isinstance(size["height"], int))  # not by a link
    aspect = inputs["width"] / inputs["height"]
    height, width = min(SIZES.values(), key=lambda size: abs(size[1] / size[0] - aspect))
    return width, height


def bypass(prompt: dict[str, Any]) -> list[str]:
    """Take the nodes of BYPASSED out of a prompt; returns what the card calls them."""
    names = []
    for node_id, node in list(prompt.items()):
        if node["class_type"] not in BYPASSED:
            continue
        name, replacements = BYPASSED[node["class_type"]]
        for other in prompt.values():
            for key, value in other["inputs"].items():
                if isinstance(value, list) and value[0] == node_id and value[1] < len(replacements):
                    other["inputs"][key] = node["inputs"][replacements[value[1]]]
        del prompt[node_id]
        names.append(name)
    return list(dict.fromkeys(names))


def save_background(folder: Path) -> None:
    """The reference of a subject that is the whole background: the sprites' background alone."""
    kind = torch.tensor([BACKGROUNDS.index(BACKGROUND)])
    (pixels,) = draw_background(kind, 64, 64, torch.Generator().manual_seed(4))
    to_pil(pixels).save(folder / BACKGROUND_REFERENCE)


def use_background(prompt: dict[str, Any]) -> None:
    """Let the subject that fills the picture be the background that the prompt names."""
    subjects = prompt[find(prompt, "MSDLayout")]["inputs"]["layout"]["subjects"]
    for number, subject in enumerate(subjects, 1):
        if subject["box"] != WHOLE_PICTURE:
            continue
        subject["phrase"] = BACKGROUND
        reference = prompt[find(prompt, "LoadImage", f"Reference {number}")]["inputs"]
        reference["image"] = BACKGROUND_REFERENCE
        text = prompt[find(prompt, "CLIPTextEncode", "Positive")]["inputs"]
        text["text"] = text["text"].replace(f" and a {SPRITES[number - 1][2]}", "")


def card(layout: Image.Image, picture: Image.Image, note: str) -> Image.Image:
    """Layout and picture side by side, and a line that says what the picture is or lacks."""
    sides = [
        side.resize((round(HEIGHT * side.width / side.height), HEIGHT), Image.Resampling.LANCZOS)
        for side in (layout, picture)
    ]
    sheet = Image.new("RGB", (sum(side.width for side in sides), HEIGHT))
    sheet.paste(sides[0], (0, 0))
    sheet.paste(sides[1], (sides[0].width, 0))
    if note:
        draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(20)
        draw.rectangle((sides[0].width, HEIGHT - 34, sheet.width, HEIGHT), fill="#202020")
        at = (sides[0].width + sides[1].width / 2, HEIGHT - 17)
        draw.text(at, note, "white", font, anchor="mm")
    return sheet


def draw_card(server: Server, workflow: Path) -> Image.Image:
    """A workflow's layout beside its picture, by the micro family, or beside its collage."""
    prompt = server.workflow(workflow)
    adapters = {n["inputs"]["adapter"] for n in prompt.values() if n["class_type"] == LOADER}
    there = server.base / "models" / "ipadapter"
    files = FILES | {name: own for name, own in OTHERS.items() if (there / own).is_file()}
    if not adapters or not adapters <= files.keys():
        return draw_collage_card(server, prompt)
    files[CLIP_VISION_H] = files["clip_vision_g.safetensors"]
    without = bypass(prompt)
    prompt = use_micro_files(prompt, *nearest_size(prompt), STEPS, files)
    describe_sprites(prompt)
    use_background(prompt)
    show_layout(prompt)
    outputs = server.run(prompt)
    picture = server.picture(outputs, find(prompt, "SaveImage"))
    kinds = {node["class_type"] for node in prompt.values()}
    notes = [note for kind, note in STAND_INS.items() if kind in kinds]
    note = f"without the {' and '.join(without)}" if without else "; ".join(notes)
    if has_boxes(prompt):
        return card(server.picture(outputs, PREVIEW), picture, note)
    return card(stack(references(server, prompt)), picture, note)


def has_boxes(prompt: dict[str, Any]) -> bool:
    subjects = prompt[find(prompt, "MSDLayout")]["inputs"]["layout"]["subjects"]
    return any(subject["box"] for subject in subjects)


def references(server: Server, prompt: dict[str, Any]) -> list[Image.Image]:
    """The first two."""
    names = (prompt[find(prompt, "LoadImage", f"Reference {n}")] for n in (1, 2))
    files = (server.base / "input" / name["inputs"]["image"] for name in names)
    return [Image.open(file).convert("RGB") for file in files]


def stack(pictures: list[Image.Image]) -> Image.Image:
    """Two pictures, the one above the other."""
    edge = HEIGHT // 2
    both = Image.new("RGB", (edge, HEIGHT))
    for number, picture in enumerate(pictures):
        both.paste(picture.resize((edge, edge)), (0, number * edge))
    return both


def draw_collage_card(server: Server, prompt: dict[str, Any]) -> Image.Image:
    """The layout of a workflow that the micro family can't run, beside its collage."""
    size = prompt[find(prompt, "MSDLayout")]["inputs"]
    prompt = use_micro_files(prompt, size["width"], size["height"], STEPS)
    name_sprites(prompt)
    prompt = {k: v for k, v in prompt.items() if v["class_type"] in ("LoadImage", "MSDLayout")}
    if not has_boxes(prompt):
        first, second = references(server, prompt)
        return card(first, second, "references; model not run here")
    show_layout(prompt)
    outputs = server.run(prompt)
    layout, collage = (server.picture(outputs, name) for name in (PREVIEW, COLLAGE))
    return card(layout, collage, "collage; model not run here")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m lab.templates",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", type=Path, default=MODELS, help="folder of the micro family")
    options = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory(prefix="ms-diffusion-") as folder:
            base = Path(folder)
            shutil.copytree(options.models, base / "models")
            save_segmenters(base / "models")
            save_sprites(base / "input")
            save_background(base / "input")
            with Server(host_folder(), base) as server:
                for path in sorted(WORKFLOWS.glob("*.json")):
                    draw_card(server, path).save(path.with_suffix(".jpg"), quality=85)
                    print(f"Wrote {path.with_suffix('.jpg').name}", flush=True)
    except KeyboardInterrupt:
        sys.exit("Stopped.")
    except (PromptError, RuntimeError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
