"""Mistakes in the half that knows the host, each injected once and caught by golden set d or f."""

from typing import Any

import pytest
import test_golden_host
import torch
from golden import Golden

from msd_core.coverage import box_coverage

D, F = Golden("d_unet"), Golden("f_encoders")


@pytest.fixture
def check(pack: Any, unets: Any, adapters: Any) -> Any:
    """Run one case of set d against its stored output, as test_golden does."""

    def run(name: str) -> None:
        case = test_golden_host.Case(pack, unets, adapters, name)
        kind = D.manifest["cases"][name]["kind"]
        getattr(test_golden_host, f"test_{kind}").__wrapped__(case)

    run("two")
    return run


def caught(run: Any, case: str) -> None:
    with pytest.raises(AssertionError):
        run(case)


def test_middle_before_up_blocks(pack: Any, check: Any, monkeypatch: Any) -> None:
    """The widths differ, so that the node refuses it."""
    table = pack.module("msd_core.models.unet")
    monkeypatch.setattr(table, "_RELEASED_ORDER", {"input": 0, "middle": 1, "output": 2})
    with pytest.raises(ValueError, match="the adapter's projection"):
        check("topo70_two")


def test_two_layers_swapped(check: Any, pack: Any, monkeypatch: Any) -> None:
    apply = pack.module("nodes.apply")
    right = apply.cross_attentions

    def swapped(shapes: Any) -> Any:
        rows = right(shapes)
        rows[5], rows[6] = (
            rows[5]._replace(block=rows[6].block),
            rows[6]._replace(block=rows[5].block),
        )
        return rows

    monkeypatch.setattr(apply, "cross_attentions", swapped)
    caught(check, "topo70_two")


def test_key_and_value_swapped(check: Any, pack: Any, monkeypatch: Any) -> None:
    core = pack.module("msd_core.adapters.ms_diffusion").MSAdapter
    right = core.keys_and_values
    swapped = lambda self, tokens: [(v, k) for k, v in right(self, tokens)]  # noqa: E731
    monkeypatch.setattr(core, "keys_and_values", swapped)
    caught(check, "two")


def test_negative_rows_get_the_branch(check: Any, pack: Any, monkeypatch: Any) -> None:
    rows = pack.module("nodes.sampling.conditionings")
    right = rows.Conditioning
    monkeypatch.setattr(rows, "Conditioning", lambda positive, text=None: right(0, text))
    caught(check, "two")


def test_rows_in_the_wrong_order(check: Any, pack: Any, monkeypatch: Any) -> None:
    call = pack.module("nodes.sampling.call")
    right = call.row_parts
    monkeypatch.setattr(call, "row_parts", lambda rows, *rest: right(rows[::-1], *rest))
    caught(check, "two")


def test_weight_ignored(check: Any, pack: Any, monkeypatch: Any) -> None:
    node = pack.MSDApply
    right = node.execute
    ignored = lambda model, adapter, subjects, weight: right(model, adapter, subjects, 1.0)  # noqa: E731
    monkeypatch.setattr(node, "execute", ignored)
    caught(check, "two")


def test_drop_ignored(check: Any, pack: Any, monkeypatch: Any) -> None:
    resampler = pack.module("msd_core.adapters.resampler").GroundingResampler
    right = resampler.latents
    ignored = lambda self, phrases, boxes, drop: right(self, phrases, boxes, drop & False)  # noqa: E731
    monkeypatch.setattr(resampler, "latents", ignored)
    caught(check, "two_drop")
    caught(check, "gen_three_drop")


def test_boxes_with_x_and_y_swapped(check: Any, pack: Any, monkeypatch: Any) -> None:
    swapped = lambda boxes, *rest: box_coverage(boxes[..., [1, 0, 3, 2]], *rest)  # noqa: E731
    monkeypatch.setattr(pack.module("nodes.subjects"), "box_coverage", swapped)
    caught(check, "two")


def test_auto_layout_a_step_late(check: Any, pack: Any, monkeypatch: Any) -> None:
    run = pack.module("nodes.sampling.run").Run
    right = run.enter

    def late(self: Any, sigma: float) -> None:
        right(self, sigma)
        self.step -= 1

    monkeypatch.setattr(run, "enter", late)
    caught(check, "gen_pseudo")


def test_auto_layout_of_the_negative_s_maps(check: Any, pack: Any, monkeypatch: Any) -> None:
    branch = pack.module("nodes.sampling.image_branch")
    right = branch.phrase_maps
    monkeypatch.setattr(branch, "phrase_maps", lambda q, k, h, w: right(q.flip(0), k.flip(0), h, w))
    caught(check, "gen_pseudo")  # two pictures a batch, each with maps of its own


def test_reference_not_stretched_first(pack: Any) -> None:
    prepare = pack.module("nodes.encode_references").prepare_reference
    for fit in ("crop", "pad"):
        pixels = (
            (prepare(test_golden_host.stored_reference("wide"), None, fit, "black", 224) * 255)
            .round()
            .byte()
        )
        assert not torch.equal(pixels.movedim(-1, 0), F.outputs("pre/")["wide"].byte())
