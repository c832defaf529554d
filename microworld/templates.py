"""The cards of the example workflows: python -m microworld.templates

Runs each workflow on a real server with the micro family, and writes its layout beside its picture.
The family has no LoRA, ControlNet or IPAdapter: these are bypassed, and the card says so.
"""

import io
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont

from microworld.demo import (
    GROUND,
    MODELS,
    PREVIEW,
    SUBJECTS,
    WORKFLOW,
    adapt,
    find,
    save_sprites,
    use_words,
)
from microworld.host import STEPS, WHOLE_PICTURE
from microworld.scenes import BACKGROUNDS, SIZES, draw_background
from microworld.server import Server

EDGE = 320  # pixels of the height
# Nodes to bypass: what the card calls them, and the inputs that replace their outputs.
BYPASSED = {
    "LoraLoader": ("LoRA", ("model", "clip")),
    "ControlNetApplyAdvanced": ("ControlNet", ("positive", "negative")),
    "IPAdapterUnifiedLoader": ("IPAdapter", ("model",)),
    "IPAdapter": ("IPAdapter", ("model",)),
}
BACKGROUND_REFERENCE = "background.png"


def family_size(prompt: dict[str, Any]) -> tuple[int, int]:
    """The family's width and height that are nearest to the layout's aspect."""
    inputs = prompt[find(prompt, "MSDLayout")]["inputs"]
    wanted = inputs["width"] / inputs["height"]
    height, width = min(SIZES.values(), key=lambda size: abs(size[1] / size[0] - wanted))
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
    """The reference of a subject that is the whole background: the demo's ground alone."""
    kind = torch.tensor([BACKGROUNDS.index(GROUND)])
    (pixels,) = draw_background(kind, 64, 64, torch.Generator().manual_seed(4))
    picture = Image.fromarray((pixels.movedim(0, -1) * 255).round().byte().numpy())
    picture.save(folder / BACKGROUND_REFERENCE)


def use_background(prompt: dict[str, Any]) -> None:
    """Let the subject that fills the picture be the ground that the demo's words name."""
    subjects = prompt[find(prompt, "MSDLayout")]["inputs"]["layout"]["subjects"]
    for number, subject in enumerate(subjects, 1):
        if tuple(subject["box"]) != WHOLE_PICTURE:
            continue
        subject["phrase"] = GROUND
        prompt[find(prompt, "LoadImage", f"Reference {number}")]["inputs"]["image"] = (
            BACKGROUND_REFERENCE
        )
        text = prompt[find(prompt, "CLIPTextEncode", "Positive")]["inputs"]
        text["text"] = text["text"].replace(f" and a {SUBJECTS[number - 1][2]}", "")


def card(layout: Image.Image, picture: Image.Image, without: list[str]) -> Image.Image:
    """Layout and picture side by side, and a line that says what the picture was made without."""
    sides = [
        side.resize((round(EDGE * side.width / side.height), EDGE), Image.Resampling.LANCZOS)
        for side in (layout, picture)
    ]
    sheet = Image.new("RGB", (sum(side.width for side in sides), EDGE))
    sheet.paste(sides[0], (0, 0))
    sheet.paste(sides[1], (sides[0].width, 0))
    if without:
        draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(20)
        draw.rectangle((sides[0].width, EDGE - 34, sheet.width, EDGE), fill="#202020")
        at = (sides[0].width + sides[1].width / 2, EDGE - 17)
        draw.text(at, f"without the {' and '.join(without)}", "white", font, anchor="mm")
    return sheet


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="ms-diffusion-") as folder:
        base = Path(folder)
        shutil.copytree(MODELS, base / "models")
        save_sprites(base / "input")
        save_background(base / "input")
        with Server(Path(os.environ["COMFYUI_PATH"]), base) as server:
            for path in sorted(WORKFLOW.parent.glob("*.json")):
                prompt = server.workflow(path)
                without = bypass(prompt)
                prompt = adapt(prompt, *family_size(prompt), STEPS)
                use_words(prompt)
                use_background(prompt)
                outputs = server.run(prompt)
                layout, picture = (
                    Image.open(io.BytesIO(server.picture(outputs[node]["images"][0])))
                    for node in (PREVIEW, find(prompt, "SaveImage"))
                )
                sheet = card(layout.convert("RGB"), picture.convert("RGB"), without)
                sheet.save(path.with_suffix(".jpg"), quality=85)
                print(f"Wrote {path.with_suffix('.jpg').name}", flush=True)


if __name__ == "__main__":
    main()
