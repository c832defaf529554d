"""Many prompts on one server: none lost, none wrong, memory flat.

SOAK_PROMPTS says how many (30 by default); 300 and UPDATE_DOCS=1 write docs/soak.md.
"""

import copy
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from prompts import find, run, run_interrupted

from lab.host.server import PromptError, Server

PAGE = ROOT / "docs" / "soak.md"
COUNT = int(os.environ.get("SOAK_PROMPTS", "30"))
SIZES = ((64, 64), (96, 64), (64, 96), (72, 56))
LEFT, RIGHT, ALL = [0.0, 0.2, 0.5, 0.9], [0.5, 0.1, 1.0, 0.8], [0.0, 0.0, 1.0, 1.0]
BOXES = ((LEFT, RIGHT), (RIGHT, LEFT), (LEFT, ALL))


def resident(server: Server) -> float:
    """Resident memory of the server in MiB."""
    lines = Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def live(server: Server) -> dict[str, int]:
    """Objects of ours in the server, by class, and their tensors."""
    return server.get_json("/micro_world/live")


def change(prompt: dict[str, Any], size: tuple[int, int], boxes: Any, seed: int) -> None:
    """Another size, other subjects, another seed."""
    layout = prompt[find(prompt, "MSDLayout")]["inputs"]
    for inputs in (layout, prompt[find(prompt, "EmptyLatentImage")]["inputs"]):
        inputs |= {"width": size[0], "height": size[1]}
    for subject, box in zip(layout["layout"]["subjects"], boxes, strict=True):
        subject["box"] = box
    prompt[find(prompt, "KSampler")]["inputs"]["seed"] = seed


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Memory is read from /proc.")
def test_soak(server: Server, prompt: dict[str, Any]) -> None:
    draw, pictures = random.Random(1), dict[Any, np.ndarray]()
    good = bad = interrupted = repeated = 0
    early, memory = max(5, COUNT // 6), {}
    for number in range(1, COUNT + 1):
        key = (draw.choice(SIZES), draw.choice(BOXES), draw.randrange(3))
        asked = copy.deepcopy(prompt)
        change(asked, *key)
        sampler = asked[find(asked, "KSampler")]["inputs"]
        if number % 20 == 7:
            asked[find(asked, "MSDLayout")]["inputs"]["layout"]["subjects"][0]["box"] = [1, 0, 0, 1]
            with pytest.raises(PromptError, match="has no area"):
                server.run(asked)
            bad += 1
        elif number % 20 == 13:
            sampler["steps"] = 10_000  # endless, but for the interruption
            run_interrupted(server, asked, "KSampler", draw.randrange(20))
            interrupted += 1
        else:
            sampler["cfg"] += 1e-6 * number  # nothing comes from the host's cache
            picture = run(server, asked)
            if str(key) in pictures:
                assert abs(picture - pictures[str(key)]).max() <= 1
                repeated += 1
            pictures[str(key)] = picture
            good += 1
        if number in (early, COUNT):
            memory[number] = (resident(server), live(server))
    (before, objects_before), (after, objects_after) = memory[early], memory[COUNT]
    grown = after / before - 1
    rows = {
        "prompts": COUNT,
        "pictures, of them compared with an earlier run of the same prompt": f"{good}, {repeated}",
        "bad prompts, each refused with its sentence": bad,
        "interrupted": interrupted,
        f"resident memory after {early} prompts": f"{before:.0f} MiB",
        f"resident memory after {COUNT} prompts": f"{after:.0f} MiB ({grown:+.1%})",
        f"objects of the pack after {early} prompts": objects_before,
        f"objects of the pack after {COUNT} prompts": objects_after,
    }
    table = "| | |\n| --- | --- |\n" + "".join(f"| {k} | {v} |\n" for k, v in rows.items())
    print(f"\n{table}")
    assert good + bad + interrupted == COUNT and repeated > 0
    assert grown < (0.05 if COUNT >= 300 else 0.15)
    for name, count in objects_after.items():
        assert count <= objects_before[name] * 1.1 + 2, name
    if os.environ.get("UPDATE_DOCS") and COUNT >= 300:
        PAGE.write_text(
            "# Many prompts on one server\n\nWritten by `nox -s soak`: template *MS-Diffusion, "
            "two subjects* with changing sizes, boxes and seeds, on the random micro family.\n\n"
            + table,
            encoding="utf-8",
        )
