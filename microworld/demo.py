"""The demo: an example workflow on a real server, two reference sprites in two boxes.

Run by `nox -s demo`. Writes the picture, the layout and a contact sheet into demo_output/.
"""

import io
import os
import shutil
import signal
import sys
import tempfile
import time
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont

from microworld.scenes import COLOURS, HUES, SHAPES, TEXTURES, WHITE, Looks, draw_references, rgb
from microworld.server import ROOT, PromptError, Server

WORKFLOW = ROOT / "example_workflows" / "Two subjects.json"
MODELS = ROOT / "microworld" / "models"
OUTPUT = ROOT / "demo_output"
SIZE, STEPS, GUIDANCE = 128, 20, 3.0
SUBJECTS = (("striped", "cyan", "star"), ("checked", "pink", "heart"))
PROMPT = "a star and a heart on grass"
BOXES = ([0.04, 0.28, 0.48, 0.72], [0.54, 0.3, 0.96, 0.74])
# The workflow's files, and what stands in for them.
FILES = {
    "sd_xl_base_1.0.safetensors": "micro.safetensors",
    "clip_vision_g.safetensors": "micro_vision.safetensors",
    "ms_adapter.bin": "ms_adapter_micro.safetensors",
    "style_lora.safetensors": "micro_lora.safetensors",
    "controlnet-canny-sdxl-1.0.safetensors": "micro_controlnet.safetensors",
}
PHOTOS = {"cat.png": "chelsea.png", "cup.png": "coffee.png", "garden.png": "grass.png"}


def save_photos(folder: Path) -> None:
    """The example workflows' pictures, from those that scikit-image ships."""
    folder.mkdir(parents=True, exist_ok=True)
    data = resources.files("skimage") / "data"
    for name, source in (*PHOTOS.items(), ("edges.png", "page.png")):
        Image.open(io.BytesIO((data / source).read_bytes())).convert("RGB").save(folder / name)


def save_sprites(folder: Path) -> list[Image.Image]:
    """The demo's two references, under the names that the workflow loads."""
    folder.mkdir(parents=True, exist_ok=True)
    texture, colour, shape = (
        torch.tensor([kinds.index(sprite[n]) for sprite in SUBJECTS])
        for n, kinds in enumerate((TEXTURES, COLOURS, SHAPES))
    )
    first = rgb(HUES[colour], torch.full((2,), 0.85), torch.full((2,), 0.95))
    looks = Looks(shape, texture, colour, first, torch.full((2, 3), WHITE))
    sprites = []
    for name, pixels in zip(
        ("cat.png", "cup.png"),
        draw_references(looks, torch.Generator().manual_seed(4)),
        strict=True,
    ):
        picture = Image.fromarray((pixels.movedim(0, -1) * 255).round().byte().numpy())
        picture.save(folder / name)
        sprites.append(picture)
    return sprites


def adapt(prompt: dict[str, Any], width: int, height: int, steps: int) -> dict[str, Any]:
    """The prompt with the micro family's files, at another size."""
    for node in prompt.values():
        inputs = node["inputs"]
        inputs |= {k: FILES[v] for k, v in inputs.items() if isinstance(v, str) and v in FILES}
        if "width" in inputs:
            inputs |= {"width": width, "height": height}
        if "steps" in inputs:
            inputs["steps"] = steps
    return prompt


def find(prompt: dict[str, Any], kind: str, title: str = "") -> str:
    """The id of the prompt's node of this class, and title if one is given."""
    return next(
        name
        for name, node in prompt.items()
        if node["class_type"] == kind and title in node["_meta"]["title"]
    )


def contact_sheet(panels: dict[str, list[Image.Image]], edge: int = 192) -> Image.Image:
    """Pictures side by side, several of one panel above each other, with their names below."""
    sheet = Image.new("RGB", ((edge + 8) * len(panels) + 8, edge + 40), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(16)
    for column, (name, pictures) in enumerate(panels.items()):
        left, each = 8 + column * (edge + 8), edge // len(pictures)
        for row, picture in enumerate(pictures):
            part = picture.resize((each, each), Image.Resampling.LANCZOS)
            sheet.paste(part, (left + (edge - each) // 2, 8 + row * each))
        draw.text((left + edge / 2, edge + 14), name, fill="black", font=font, anchor="ma")
    return sheet


def main() -> None:
    # A terminal's hang-up or a supervisor's request ends the server as Ctrl-C does.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit("Stopped."))
    begin = time.monotonic()
    host = Path(os.environ["COMFYUI_PATH"])
    with tempfile.TemporaryDirectory(prefix="ms-diffusion-") as folder:
        base = Path(folder)
        shutil.copytree(MODELS, base / "models")
        sprites = save_sprites(base / "input")
        print("Starting ComfyUI ...", flush=True)
        with Server(host, base) as server:
            prompt = adapt(server.workflow(WORKFLOW), SIZE, SIZE, STEPS)
            layout = prompt[find(prompt, "MSDLayout")]["inputs"]
            places = [
                {"phrase": shape, "box": box, "weight": 1.0}
                for (_, _, shape), box in zip(SUBJECTS, BOXES, strict=True)
            ]
            layout["layout"] = {"version": 1, "subjects": places}
            prompt[find(prompt, "CLIPTextEncode", "Positive")]["inputs"]["text"] = PROMPT
            prompt[find(prompt, "KSampler")]["inputs"]["cfg"] = GUIDANCE
            apply = prompt[find(prompt, "MSDApply")]["inputs"]
            apply["weight"] = 1.0

            def show(node: str, step: int, steps: int) -> None:
                print(f"  {prompt[node]['_meta']['title']}: {step}/{steps}", flush=True)

            def shown(outputs: dict[str, Any], kind: str = "SaveImage") -> Image.Image:
                content = server.picture(outputs[find(prompt, kind)]["images"][0])
                return Image.open(io.BytesIO(content)).convert("RGB")

            print(f"Running {WORKFLOW.name!r}: {PROMPT!r} ...", flush=True)
            start = time.monotonic()
            outputs = server.run(prompt, show)
            seconds = time.monotonic() - start
            pictures = {"layout": shown(outputs, "MSDLayout"), "picture": shown(outputs)}
            for place in places:
                place["box"] = [0.0, 0.0, 1.0, 1.0]
            without_masks = shown(server.run(prompt))
            apply["weight"] = 0.0
            text_only = shown(server.run(prompt))
    pictures["contact_sheet"] = contact_sheet(
        {
            "references": sprites,
            "layout": [pictures["layout"]],
            "result": [pictures["picture"]],
            "text only": [text_only],
            "no masks": [without_masks],
        }
    )
    OUTPUT.mkdir(exist_ok=True)
    for name, picture in pictures.items():
        picture.save(OUTPUT / f"{name}.png")
        print(f"Wrote {(OUTPUT / f'{name}.png').relative_to(ROOT)}")
    print(f"The workflow took {seconds:.1f} s, all in all {time.monotonic() - begin:.1f} s.")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("Stopped.")
    except (PromptError, RuntimeError) as error:
        sys.exit(str(error))
