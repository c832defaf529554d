"""Load Image's mask of a cut-out is white where the subject isn't: MSD Layout warns of it."""

import json
from typing import Any

import pytest
import torch
from layouts import CAT, layout, noise_image


def ellipse(height: int, width: int, x: float, y: float, rx: float, ry: float) -> torch.Tensor:
    """A mask [H, W] of an ellipse; x, y, rx, ry in 0..1."""
    rows = (torch.arange(height) + 0.5)[:, None] / height
    columns = (torch.arange(width) + 0.5)[None] / width
    return (((columns - x) / rx) ** 2 + ((rows - y) / ry) ** 2 <= 1).float()


SUBJECTS = {
    "centred": ellipse(90, 60, 0.5, 0.5, 0.35, 0.4),
    "small": ellipse(200, 200, 0.5, 0.5, 0.18, 0.18),
    "of few pixels": ellipse(8, 8, 0.5, 0.5, 0.3, 0.3),
    "wide": ellipse(64, 256, 0.5, 0.55, 0.45, 0.3),
    "beside the middle": ellipse(100, 100, 0.4, 0.6, 0.3, 0.3),
    "soft": torch.nn.functional.avg_pool2d(
        ellipse(100, 100, 0.5, 0.5, 0.35, 0.35)[None], 9, 1, 4
    ).squeeze(0),
    "touching the lower edge": ellipse(100, 80, 0.5, 0.9, 0.4, 0.75),
    "touching two edges": ellipse(80, 80, 0.5, 0.5, 0.6, 0.4),
}
RIGHT = {
    **SUBJECTS,
    "full": torch.ones(40, 40),
    "of one pixel": torch.ones(1, 1),
    "touching all edges": ellipse(80, 80, 0.5, 0.5, 0.65, 0.65),
    "with holes": 1 - ellipse(80, 80, 0.3, 0.3, 0.1, 0.1),
    "grey": torch.full((40, 40), 0.7),
    "half": (torch.arange(40)[None] < 20).float().expand(40, 40),
    "in a corner": ellipse(80, 80, 0.1, 0.1, 0.3, 0.3),
}


@pytest.mark.parametrize("name", SUBJECTS)
def test_inverted(pack: Any, name: str) -> None:
    assert pack.module("nodes.layout.references").looks_inverted(1 - SUBJECTS[name])


@pytest.mark.parametrize("name", RIGHT)
def test_the_right_way_round(pack: Any, name: str) -> None:
    assert not pack.module("nodes.layout.references").looks_inverted(RIGHT[name])


def test_it_warns_and_runs(pack: Any, monkeypatch: Any, caplog: Any) -> None:
    sent = []
    module = pack.module("nodes.node_text")
    monkeypatch.setattr(
        module.PromptServer.instance, "send_progress_text", lambda *text: sent.append(text)
    )

    class Hidden:
        unique_id, extra_pnginfo, prompt = "7", None, None

    node = type("Node", (pack.MSDLayout,), {"hidden": Hidden()})
    subject = ellipse(40, 40, 0.5, 0.5, 0.3, 0.3)[None]

    def run(reference: Any, **masks: Any) -> Any:
        references = {"reference_1": reference}
        return node.execute(references, 64, 64, reference_masks=masks, layout=layout(CAT))

    run(noise_image(1), reference_mask_1=subject)
    assert sent == []
    out = run(noise_image(1), reference_mask_1=1 - subject)
    assert out[0].subjects[0].reference_masks is not None
    assert json.loads(out.ui["msd_layout"][0])["inverted"] == [1], "the editor says so too"
    text = "Subject 1: is reference_mask_1 inverted? It keeps the border of reference_1 and"
    assert sent[0][0].startswith(text) and sent[0][1] == "7" and text in caplog.text
    run(noise_image(1), reference_mask_1=subject)
    assert sent[1:] == [("No warnings.", "7")], (
        "an earlier text stays until another one replaces it"
    )
    run(torch.cat((noise_image(1, 40, 40), 1 - subject[..., None]), -1))
    assert "is the alpha of reference_1 inverted?" in sent[2][0]
