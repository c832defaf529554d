"""MSD Crop Subjects: boxes and regions in a part of the picture."""

from typing import Any

import pytest
import torch
from layouts import CAT, CUP, layout, noise_image


def test_boxes_and_regions_move_into_the_part(pack: Any, lay_out: Any) -> None:
    """As MSD Layout would say them of a picture of the part's size."""
    mask = torch.zeros(1, 64, 128)
    mask[:, 16:48, 64:96] = 1
    value = layout(CAT, {**CUP, "box": [0.5, 0.25, 0.75, 0.75]}, CAT)
    images = map(noise_image, (1, 2, 3))
    regions = {"region_3": mask}
    subjects = lay_out(value, *images, width=1024, height=512, regions=regions)[0]
    (cropped,) = pack.MSDCropSubjects.execute(subjects, 512, 128, 512, 128).args
    cat, cup, region = cropped.subjects
    assert cropped.size == (512, 128)
    assert cat.box == (0.0, 0.0, 0.0, 0.0)
    assert cup.box == (0.0, 0.0, 0.5, 1.0)
    for subject in (cup, region):
        shown = subject.coverage(4, 16).view(4, 16).float()
        assert shown[:, :8].all() and not shown[:, 8:].any()
    whole = pack.MSDCropSubjects.execute(subjects, 0, 0, 1024, 512)[0]
    for one, other in zip(whole.subjects, subjects.subjects, strict=True):
        torch.testing.assert_close(one.coverage(8, 16), other.coverage(8, 16))


def test_a_part_beyond_the_picture_is_refused(pack: Any, lay_out: Any) -> None:
    subjects = lay_out(layout(CAT), noise_image(1), width=1024, height=512)[0]
    with pytest.raises(ValueError, match=r"width, height: .* beyond the layout's 1024 x 512"):
        pack.MSDCropSubjects.execute(subjects, 600, 0, 512, 128)
