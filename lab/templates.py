"""The pictures of the example workflows: python -m lab.templates

Runs each workflow on a real server with the micro family, and writes its layout beside its result.
Of a workflow that needs what the family lacks, it shows the layout alone.
"""

import argparse
import io
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

from lab.host.in_process import host_folder
from lab.host.server import PromptError, Server
from lab.host.workflows import (
    PREVIEW,
    STEPS,
    WORKFLOWS,
    describe_sprites,
    find,
    show_layout,
    use_micro_files,
)
from lab.microworld import MODELS
from lab.microworld.scenes import SIZES
from lab.microworld.sprites import save_sprites

HEIGHT = 320  # of a template's picture, in pixels
NOT_IN_THE_FAMILY = {"LoraLoader", "ControlNetLoader", "IPAdapter"}
FOR_THE_LAYOUT = {"LoadImage", "MSDLayout", "PreviewImage"}


def nearest_size(prompt: dict[str, Any]) -> tuple[int, int]:
    """The micro family's width and height that are nearest to the layout's aspect."""
    inputs = prompt[find(prompt, "MSDLayout")]["inputs"]
    aspect = inputs["width"] / inputs["height"]
    height, width = min(SIZES.values(), key=lambda size: abs(size[1] / size[0] - aspect))
    return width, height


def draw_template(server: Server, workflow: Path) -> Image.Image:
    """A workflow's layout, and beside it the picture that it gives where the family can run it."""
    prompt = server.workflow(workflow)
    runs = not any(node["class_type"] in NOT_IN_THE_FAMILY for node in prompt.values())
    prompt = use_micro_files(prompt, *nearest_size(prompt), STEPS)
    describe_sprites(prompt)
    show_layout(prompt)
    if not runs:
        prompt = {k: v for k, v in prompt.items() if v["class_type"] in FOR_THE_LAYOUT}
    outputs = server.run(prompt)
    pictures = []
    for node in [PREVIEW, find(prompt, "SaveImage")] if runs else [PREVIEW]:
        content = server.picture(outputs[node]["images"][0])
        picture = Image.open(io.BytesIO(content)).convert("RGB")
        width = round(HEIGHT * picture.width / picture.height)
        pictures.append(picture.resize((width, HEIGHT), Image.Resampling.LANCZOS))
    sheet = Image.new("RGB", (sum(p.width for p in pictures), HEIGHT))
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (sum(p.width for p in pictures[:i]), 0))
    return sheet


def main() -> None:
    argparse.ArgumentParser(
        prog="python -m lab.templates",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    try:
        with tempfile.TemporaryDirectory(prefix="ms-diffusion-") as folder:
            base = Path(folder)
            shutil.copytree(MODELS, base / "models")
            save_sprites(base / "input")
            with Server(host_folder(), base) as server:
                for path in sorted(WORKFLOWS.glob("*.json")):
                    draw_template(server, path).save(path.with_suffix(".jpg"), quality=85)
                    print(f"Wrote {path.with_suffix('.jpg').name}", flush=True)
    except KeyboardInterrupt:
        sys.exit("Stopped.")
    except (PromptError, RuntimeError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
