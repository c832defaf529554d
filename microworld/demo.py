"""The demo: an example workflow on a real server, two photographs in two boxes.

Run by `nox -s demo`. Writes the picture and the layout into demo_output/.
"""

import io
import os
import signal
import sys
import tempfile
import time
from importlib import resources
from pathlib import Path
from typing import Any

from PIL import Image

from microworld.family import save_random_family
from microworld.server import ROOT, PromptError, Server

WORKFLOW = ROOT / "example_workflows" / "Two subjects.json"
OUTPUT = ROOT / "demo_output"
SIZE, STEPS = 256, 20
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


def main() -> None:
    # A terminal's hang-up or a supervisor's request ends the server as Ctrl-C does.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit("Stopped."))
    begin = time.monotonic()
    host = Path(os.environ["COMFYUI_PATH"])
    with tempfile.TemporaryDirectory(prefix="ms-diffusion-") as folder:
        base = Path(folder)
        save_random_family(base / "models")
        save_photos(base / "input")
        print("Starting ComfyUI ...", flush=True)
        with Server(host, base) as server:
            prompt = adapt(server.workflow(WORKFLOW), SIZE, SIZE, STEPS)
            print(f"Running {WORKFLOW.name!r} with random weights ...", flush=True)
            start = time.monotonic()

            def show(node: str, step: int, steps: int) -> None:
                print(f"  {prompt[node]['_meta']['title']}: {step}/{steps}", flush=True)

            outputs = server.run(prompt, show)
            seconds = time.monotonic() - start
            OUTPUT.mkdir(exist_ok=True)
            for name, kind in (("layout.png", "MSDLayout"), ("picture.png", "SaveImage")):
                node = next(n for n, entry in prompt.items() if entry["class_type"] == kind)
                (OUTPUT / name).write_bytes(server.picture(outputs[node]["images"][0]))
                print(f"Wrote {(OUTPUT / name).relative_to(ROOT)}")
    print(f"The workflow took {seconds:.1f} s, all in all {time.monotonic() - begin:.1f} s.")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("Stopped.")
    except (PromptError, RuntimeError) as error:
        sys.exit(str(error))
