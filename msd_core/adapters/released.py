"""What adapter files of all families have in common: they say by their tensors' shapes what is in
them, and hold a key and a value projection for each cross-attention of the UNet."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from typing_extensions import Self

from ..attention.subjects import subject_attention
from .family import Needs, Rule, check_shapes, flat_keys, weights_digest
from .projections import Projection


class ReleasedAdapter(nn.Module, ABC):
    """An `Adapter` of `msd_core.adapters.family` whose `state_dict()` has the flat keys of a
    released file; build it with `from_state_dict` or `msd_core.checkpoint.load_adapter`.

    Args:
        image_proj: image features -> image tokens.
        projections: by their numbers in the file.
        needs: what it needs of a subject.
    """

    name: str
    part: str  # of a file, with the projections: what its keys begin with
    digest: str | None = None  # of the weights as they were read, whatever a host casts them to

    def __init__(
        self, image_proj: nn.Module, projections: Mapping[str, Projection], needs: Needs
    ) -> None:
        super().__init__()
        self.image_proj = image_proj
        self.add_module(self.part, nn.ModuleDict(projections))
        self.needs = needs

    @property
    def projections(self) -> list[Projection]:
        """The key and value projections in released order: down blocks, up blocks, middle."""
        return list(self.get_submodule(self.part).children())  # type: ignore[arg-type]

    @property
    def layers(self) -> list[tuple[int, int]]:
        return [(p.to_k_ip.out_features, p.to_k_ip.in_features) for p in self.projections]

    @property
    def rule(self) -> Rule:
        return subject_attention

    @property
    def text_weights(self) -> list[Tensor] | None:
        return None

    @abstractmethod
    def image_tokens(
        self, features: Tensor, phrases: Tensor, boxes: Tensor, use_grounding: bool
    ) -> Tensor: ...

    @abstractmethod
    def blank_image_tokens(self, features: Tensor) -> Tensor | None: ...

    def keys_and_values(self, image_tokens: Tensor) -> list[tuple[Tensor, Tensor]]:
        return [projection(image_tokens) for projection in self.projections]

    @classmethod
    def owns(cls, keys: Iterable[str]) -> bool:
        """Whether a file with these flat keys is meant to be one of this family."""
        return any(key.startswith(f"{cls.part}.") for key in keys)

    @classmethod
    def from_shapes(
        cls, shapes: Mapping[str, Sequence[int]], metadata: Mapping[str, str] | None = None
    ) -> Self:
        """An adapter without weights (device meta) whose parameters have exactly these shapes.

        Args:
            shapes: flat released key -> shape.
            metadata: of the file, as `metadata()` gives it.
        Raises:
            ValueError: a key is missing, left over, or of a shape that fits nothing.
        """
        adapter = cls.build(shapes, metadata or {}, nn)
        check_shapes(shapes, adapter, cls.name)
        return adapter

    @classmethod
    def from_state_dict(
        cls, sd: Mapping[str, Any], metadata: Mapping[str, str] | None = None, operations: Any = nn
    ) -> Self:
        """An adapter that owns these tensors, in their types.

        Args:
            sd: the weights, under flat keys or as the released file nests them.
            metadata: of the file, as `metadata()` gives it.
            operations: namespace with `Linear` and `LayerNorm`; a host passes its own.
        Raises:
            ValueError: as `from_shapes`.
        """
        flat = flat_keys(sd)
        shapes = {key: value.shape for key, value in flat.items()}
        # Checked on plain modules: a host's may hold no parameters before they are loaded.
        cls.from_shapes(shapes, metadata)
        adapter = cls.build(shapes, metadata or {}, operations)
        adapter.load_state_dict(flat, assign=True)
        adapter.digest = weights_digest(flat, *adapter.settings())
        return adapter.requires_grad_(False)

    @classmethod
    @abstractmethod
    def build(
        cls, shapes: Mapping[str, Sequence[int]], metadata: Mapping[str, str], operations: Any
    ) -> Self:
        """As `from_shapes`, of the host's modules, not yet checked for what is left over."""

    def settings(self) -> tuple[object, ...]:
        """What it computes with besides its weights."""
        return ()

    def metadata(self) -> dict[str, str]:
        """What a safetensors file of it says besides its weights."""
        return {"format": "pt"}
