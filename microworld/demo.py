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

from microworld.host import GUIDANCE, NEGATIVE, STEPS
from microworld.scenes import COLOURS, HUES, SHAPES, TEXTURES, WHITE, Looks, draw_references, rgb
from microworld.server import ROOT, PromptError, Server

WORKFLOW = ROOT / "example_workflows" / "MS-Diffusion, two subjects.json"
MODELS = ROOT / "microworld" / "models"
OUTPUT = ROOT / "demo_output"
SIZE = 128
SUBJECTS = (("striped", "cyan", "star"), ("checked", "pink", "heart"), ("split", "red", "circle"))
GROUND = "grass"
BOXES = ([0.04, 0.28, 0.48, 0.72], [0.54, 0.3, 0.96, 0.74])
PREVIEW = "preview"  # id of the node that is added for the layout's picture
# The workflow's files, and what stands in for them.
FILES = {
    "sd_xl_base_1.0.safetensors": "micro.safetensors",
    "clip_vision_g.safetensors": "micro_vision.safetensors",
    "ms_adapter.bin": "ms_adapter_micro.safetensors",
    "style_lora.safetensors": "micro_lora.safetensors",
    "controlnet-canny-sdxl-1.0.safetensors": "micro_controlnet.safetensors",
}


def save_sprites(folder: Path) -> list[Image.Image]:
    """The references of SUBJECTS as reference_1.png and so on, and an example.png as ComfyUI's own
    input folder has one."""
    folder.mkdir(parents=True, exist_ok=True)
    photo = (resources.files("skimage") / "data" / "chelsea.png").read_bytes()
    (folder / "example.png").write_bytes(photo)
    texture, colour, shape = (
        torch.tensor([kinds.index(sprite[n]) for sprite in SUBJECTS])
        for n, kinds in enumerate((TEXTURES, COLOURS, SHAPES))
    )
    count = len(SUBJECTS)
    first = rgb(HUES[colour], torch.full((count,), 0.85), torch.full((count,), 0.95))
    looks = Looks(shape, texture, colour, first, torch.full((count, 3), WHITE))
    sprites = []
    for pixels in draw_references(looks, torch.Generator().manual_seed(4)):
        picture = Image.fromarray((pixels.movedim(0, -1) * 255).round().byte().numpy())
        sprites.append(picture)
        picture.save(folder / f"reference_{len(sprites)}.png")
    return sprites


def adapt(prompt: dict[str, Any], width: int, height: int, steps: int) -> dict[str, Any]:
    """The prompt with the micro family's files and the sprites, at another size."""
    for node in prompt.values():
        inputs, title = node["inputs"], node["_meta"]["title"]
        inputs |= {k: FILES[v] for k, v in inputs.items() if isinstance(v, str) and v in FILES}
        if node["class_type"] == "LoadImage" and title.startswith("Reference "):
            inputs["image"] = f"reference_{title.split()[1].rstrip(',')}.png"
        if "width" in inputs:
            inputs |= {"width": width, "height": height}
        if "steps" in inputs:
            inputs["steps"] = steps
    return prompt


def use_words(prompt: dict[str, Any]) -> str:
    """Let the prompt speak of the sprites instead of what its author had in mind, and have its
    layout shown; returns its text."""
    node = find(prompt, "MSDLayout")
    layout = prompt[node]["inputs"]["layout"]
    shapes = [shape for _, _, shape in SUBJECTS[: len(layout["subjects"])]]
    for place, shape in zip(layout["subjects"], shapes, strict=True):
        place["phrase"] = shape
    text = f"{' and '.join(f'a {shape}' for shape in shapes)} on {GROUND}"
    prompt[find(prompt, "CLIPTextEncode", "Positive")]["inputs"]["text"] = text
    for auto in prompt.values():
        if auto["class_type"] == "MSDAutoLayout":
            auto["inputs"]["prompt"] = text
    prompt[find(prompt, "CLIPTextEncode", "Negative")]["inputs"]["text"] = NEGATIVE
    prompt[find(prompt, "KSampler")]["inputs"]["cfg"] = GUIDANCE
    prompt[find(prompt, "MSDApply")]["inputs"]["weight"] = 1.0
    prompt[PREVIEW] = {
        "class_type": "PreviewImage",
        "inputs": {"images": [node, 3]},
        "_meta": {"title": "Preview"},
    }
    return text


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
            text = use_words(prompt)
            places = prompt[find(prompt, "MSDLayout")]["inputs"]["layout"]["subjects"]
            for place, box in zip(places, BOXES, strict=True):
                place["box"] = box

            def show(node: str, step: int, steps: int) -> None:
                print(f"  {prompt[node]['_meta']['title']}: {step}/{steps}", flush=True)

            def shown(outputs: dict[str, Any], node: str | None = None) -> Image.Image:
                node = node or find(prompt, "SaveImage")
                content = server.picture(outputs[node]["images"][0])
                return Image.open(io.BytesIO(content)).convert("RGB")

            print(f"Running {WORKFLOW.name!r}: {text!r} ...", flush=True)
            start = time.monotonic()
            outputs = server.run(prompt, show)
            seconds = time.monotonic() - start
            pictures = {"layout": shown(outputs, PREVIEW), "picture": shown(outputs)}
            for place in places:
                place["box"] = [0.0, 0.0, 1.0, 1.0]
            without_masks = shown(server.run(prompt))
            prompt[find(prompt, "MSDApply")]["inputs"]["weight"] = 0.0
            text_only = shown(server.run(prompt))
    pictures["contact_sheet"] = contact_sheet(
        {
            "references": sprites[:2],
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
