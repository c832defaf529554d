"""What torch.compile needs.

Compiled code stays the same for every run, so what a run adds to an attention is one operation that
the compiler doesn't look into. Where even that goes wrong, the model runs uncompiled.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from comfy.ldm.modules.attention import attention_pytorch, optimized_attention
from comfy.patcher_extension import WrappersMP
from comfy_api.torch_helpers.torch_compile import COMPILE_KEY, TORCH_COMPILE_KWARGS
from torch import Tensor

from .call import add_image_branches, calls
from .image_branch import Layer


def add(layer: Layer, out: Tensor, q: Tensor, k: Tensor, couple_length: int) -> None:
    """`add_image_branches`, inside compiled code as one operation."""
    if torch.compiler.is_compiling():
        _operation(out, q, k, *layer.block, *layer[1:], couple_length)
    else:
        add_image_branches(layer, out, q, k, couple_length)


def _add(
    out: Tensor,
    q: Tensor,
    k: Tensor,
    part: str,
    number: int,
    depth: int,
    heads: int,
    height: int,
    width: int,
    couple_length: int,
) -> None:
    """As an operation must be: of tensors, numbers and text."""
    block = (part, number, depth)
    if any(block in call.seen for call in calls.get()):
        raise ValueError(
            f"MSD Apply: the compiled model computed its block {block} twice in one call. Bypass "
            "the node that compiles the model."
        )
    add_image_branches(Layer(block, heads, height, width), out, q, k, couple_length)


# Whatever CUDA graph is made around the operation leaves it out.
_UNSAFE: dict[str, Any] = (
    {"tags": (torch.Tag.cudagraph_unsafe,)} if hasattr(torch.Tag, "cudagraph_unsafe") else {}
)
_operation: Callable[..., None] = _add  # PyTorch before 2.4 breaks the graph there
if hasattr(torch.library, "custom_op"):
    _operation = torch.library.custom_op(
        "ms_diffusion::add_image_branch", _add, mutates_args=("out",), **_UNSAFE
    )


def backend_of(model_options: Mapping[str, Any]) -> str | None:
    """Backend that TorchCompileModel compiles with, None without it."""
    return (model_options.get(TORCH_COMPILE_KWARGS) or {}).get("backend")


def is_compiled(transformer_options: Mapping[str, Any]) -> bool:
    """Whether TorchCompileModel compiles the model."""
    wrappers = transformer_options.get("wrappers", {}).get(WrappersMP.APPLY_MODEL, {})
    return COMPILE_KEY in wrappers


def keeps_earlier_runs(
    transformer_options: Mapping[str, Any], backend: str | None, has_other_patches: bool
) -> bool:
    """Whether what TorchCompileModel compiles would show the subjects of an earlier run: its code
    doesn't look at the options again, so it takes one block for another wherever the model isn't a
    single graph; and CUDA graphs replay an earlier run.

    Args:
        has_other_patches: other packs have replaced attentions.
    """
    return is_compiled(transformer_options) and (
        backend == "cudagraphs"
        or optimized_attention is not attention_pytorch  # others measure memory, and break graphs
        or has_other_patches
        or _operation is _add
        or bool(transformer_options.get("patches"))
    )


def uncompiled(node: str) -> AbstractContextManager[Any]:
    """Runs the model uncompiled, for a node of this name.

    Raises:
        ValueError: this PyTorch can't.
    """
    if not hasattr(torch.compiler, "set_stance"):
        raise ValueError(
            f"{node}: what TorchCompileModel compiles would keep the subjects of an earlier run, "
            f"and PyTorch {torch.__version__} can't run it uncompiled (2.6 and newer can). Bypass "
            "TorchCompileModel."
        )
    return torch.compiler.set_stance("force_eager")
