"""The pictures of the example workflows: python -m microworld.templates

Runs each workflow on a real server with the micro family, and writes its layout beside its result.
Of those that need what the family hasn't got, the layout alone.
"""

import io
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

from microworld.demo import MODELS, PREVIEW, WORKFLOW, adapt, find, save_sprites, use_words
from microworld.host import STEPS
from microworld.scenes import SIZES
from microworld.server import Server

EDGE = 320  # pixels of the height
FOREIGN = {"LoraLoader", "ControlNetLoader", "IPAdapter"}
TO_THE_LAYOUT = {"LoadImage", "MSDLayout", "PreviewImage"}


def family_size(prompt: dict[str, Any]) -> tuple[int, int]:
    """The family's width and height that are nearest to the layout's aspect."""
    inputs = prompt[find(prompt, "MSDLayout")]["inputs"]
    wanted = inputs["width"] / inputs["height"]
    height, width = min(SIZES.values(), key=lambda size: abs(size[1] / size[0] - wanted))
    return width, height


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="ms-diffusion-") as folder:
        base = Path(folder)
        shutil.copytree(MODELS, base / "models")
        save_sprites(base / "input")
        with Server(Path(os.environ["COMFYUI_PATH"]), base) as server:
            for path in sorted(WORKFLOW.parent.glob("*.json")):
                prompt = server.workflow(path)
                foreign = any(node["class_type"] in FOREIGN for node in prompt.values())
                prompt = adapt(prompt, *family_size(prompt), STEPS)
                use_words(prompt)
                if foreign:
                    prompt = {k: v for k, v in prompt.items() if v["class_type"] in TO_THE_LAYOUT}
                outputs = server.run(prompt)
                nodes = [PREVIEW] if foreign else [PREVIEW, find(prompt, "SaveImage")]
                pictures = []
                for node in nodes:
                    content = server.picture(outputs[node]["images"][0])
                    picture = Image.open(io.BytesIO(content)).convert("RGB")
                    width = round(EDGE * picture.width / picture.height)
                    pictures.append(picture.resize((width, EDGE), Image.Resampling.LANCZOS))
                sheet = Image.new("RGB", (sum(p.width for p in pictures), EDGE))
                for i, picture in enumerate(pictures):
                    sheet.paste(picture, (sum(p.width for p in pictures[:i]), 0))
                sheet.save(path.with_suffix(".jpg"), quality=85)
                print(f"Wrote {path.with_suffix('.jpg').name}", flush=True)


if __name__ == "__main__":
    main()
