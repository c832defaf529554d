"""The demo: an example workflow on a real server, two reference sprites in two boxes.

Run by `nox -s demo`. Writes the picture, the layout and a contact sheet into demo_output/.
"""

import argparse
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from lab import ROOT
from lab.host import host_folder
from lab.host.server import PromptError, Server
from lab.host.workflows import (
    PREVIEW,
    STEPS,
    WHOLE_PICTURE,
    WORKFLOWS,
    describe_sprites,
    find,
    show_layout,
    use_micro_files,
)
from lab.microworld import MODELS
from lab.microworld.sprites import save_sprites

WORKFLOW = WORKFLOWS / "MS-Diffusion, two subjects.json"
OUTPUT = ROOT / "demo_output"
SIZE = 128
BOXES = ([0.04, 0.28, 0.48, 0.72], [0.54, 0.3, 0.96, 0.74])


class Demo:
    """The workflow on a running server, ready to run and to change."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.prompt = use_micro_files(server.workflow(WORKFLOW), SIZE, SIZE, STEPS)
        self.text = describe_sprites(self.prompt)
        show_layout(self.prompt)
        self.set_boxes(*BOXES)

    def set_boxes(self, *boxes: list[float]) -> None:
        layout = self.prompt[find(self.prompt, "MSDLayout")]["inputs"]["layout"]
        for subject, box in zip(layout["subjects"], boxes, strict=True):
            subject["box"] = box

    def run(self, progress: bool = False) -> tuple[Image.Image, Image.Image]:
        """The picture, and the layout's."""
        outputs = self.server.run(self.prompt, self._print_step if progress else None)
        picture = self.server.picture(outputs, find(self.prompt, "SaveImage"))
        return picture, self.server.picture(outputs, PREVIEW)

    def _print_step(self, node: str, step: int, steps: int) -> None:
        print(f"  {self.prompt[node]['_meta']['title']}: {step}/{steps}", flush=True)


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


def run_demo(base: Path) -> dict[str, Image.Image]:
    """The demo's pictures by name, from a server in the folder `base`."""
    shutil.copytree(MODELS, base / "models")
    sprites = save_sprites(base / "input")
    print("Starting ComfyUI ...", flush=True)
    with Server(host_folder(), base) as server:
        demo = Demo(server)
        print(f"Running {WORKFLOW.name!r}: {demo.text!r} ...", flush=True)
        start = time.monotonic()
        picture, layout = demo.run(progress=True)
        print(f"The workflow took {time.monotonic() - start:.1f} s.")
        demo.set_boxes(WHOLE_PICTURE, WHOLE_PICTURE)
        without_masks, _ = demo.run()
        demo.prompt[find(demo.prompt, "MSDApply")]["inputs"]["weight"] = 0.0
        text_only, _ = demo.run()
    sheet = contact_sheet(
        {
            "references": sprites[:2],
            "layout": [layout],
            "result": [picture],
            "text only": [text_only],
            "no masks": [without_masks],
        }
    )
    return {"layout": layout, "picture": picture, "contact_sheet": sheet}


def main() -> None:
    argparse.ArgumentParser(
        prog="python -m lab.demo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    # A hang-up of the terminal or a request to terminate stops the server as Ctrl-C does.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit("Stopped."))
    start = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="ms-diffusion-") as folder:
            pictures = run_demo(Path(folder))
    except KeyboardInterrupt:
        sys.exit("Stopped.")
    except (PromptError, RuntimeError, OSError) as error:
        sys.exit(str(error))
    OUTPUT.mkdir(exist_ok=True)
    for name, picture in pictures.items():
        picture.save(OUTPUT / f"{name}.png")
        print(f"Wrote {(OUTPUT / f'{name}.png').relative_to(ROOT)}")
    print(f"The demo took {time.monotonic() - start:.1f} s.")


if __name__ == "__main__":
    main()
