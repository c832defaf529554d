"""Whether ComfyUI can serve the scripts, help pages and templates of a pack from its folder."""

import logging
import re

logger = logging.getLogger(__name__)

# ComfyUI puts the name into web addresses as it is: with other characters than these the scripts
# and templates aren't found, with a dot or an at sign the help pages.
_UNFIT = re.compile(r"[^\w!$&'()*+,:;=~-]", re.ASCII)


def warn_of_folder_name(name: str) -> None:
    """Say in one line if a pack's folder name is unfit."""
    if found := sorted(set(_UNFIT.findall(name))):
        logger.warning(
            "MS-Diffusion: ComfyUI can't serve the layout editor, help or templates from a folder "
            "named %r, because of %s. Rename it, for example to ms_diffusion.",
            name,
            " ".join(map(repr, found)),
        )
