"""The contract of a random operation."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from typing import Any, ClassVar

from torch import Tensor

from siamese.augment.params import ViewParams

Column = int | slice


class CompilerError(Exception):
    """The views cannot be rendered by compiled code; the message says why in one line.

    Args:
        remedy: what to do.
    """

    def __init__(self, message: str, remedy: str = "install g++"):
        super().__init__(message)
        self.remedy = remedy


class Operation(ABC):
    """A random operation. The arguments of its constructor are its settings (keys of `conf/augment`).

    Attributes:
        fields: names of its random parameters in `ViewParams`.
        columns: which of the shared uniform numbers of a sample `draw` receives.
        more: how many uniform numbers of its own it draws for a sample. Every operation beyond the ones here uses
            these, so that the random numbers of existing recipes stay as they are.
        place: operations are applied in the order of this number.
        p: probability for each sample; 1 if it is always applied.
    """

    fields: ClassVar[tuple[str, ...]]
    columns: ClassVar[tuple[Column, ...]] = ()
    more: ClassVar[int] = 0
    place: float
    p: float = 1.0

    @property
    def active(self) -> bool:
        """Whether it can change an image at all."""
        return self.p > 0

    @abstractmethod
    def draw(self, *uniform: Tensor, height: int, width: int, aspect_ratio: Tensor | None) -> dict[str, Tensor]:
        """The values of `fields` for B samples.

        Args:
            uniform: (B,) or (B, n) uniform numbers in [0, 1), one for each entry of `columns`, then (B, more).
            height, width: of the images, pixels.
            aspect_ratio: (B,) width / height of the original photographs, or None.
        """

    @abstractmethod
    def apply(self, x: Tensor, params: ViewParams, size: int) -> Tensor:
        """The operation in torch on the images' device.

        Args:
            x: (B, C, size, size) float in [0, 1]; before the crop (B, C, H, W) uint8 or float in [0, 255].
        """

    def options(self) -> dict[str, int]:
        """Settings that compiled code reads, by the names that views.cpp gives them."""
        return {}

    def check(self, size: int) -> None:  # noqa: B027
        """Refuse settings that do not fit views of `size` pixels."""

    def fit(self, channels: int) -> tuple[str, ...]:
        """Adjust to images of so many channels. Returns the names of what is left out because it needs colour.

        Raises:
            UserError: it needs more channels.
        """
        return ()

    def needs_colour(self, name: str, channels: int) -> tuple[str, ...]:
        """`fit` of an operation on colours."""
        left_out = (name,) if channels != 3 and self.p else ()
        self.p = self.p if channels == 3 else 0.0
        return left_out


def check_fields(operations: Sequence[Operation], known: Collection[str], file: str) -> None:
    """Check that compiled code knows the active operations.

    Args:
        known: fields that it computes with.
        file: where an unknown one would be added.

    Raises:
        CompilerError: it does not know one; torch then renders the views.
    """
    unknown = sorted({field for o in operations if o.active for field in o.fields if field not in known})
    if unknown:
        raise CompilerError(f"{file} does not know {', '.join(unknown)}: torch renders", f"add it to {file}")


def on_chosen(x: Tensor, chosen: Tensor, change: Callable[[Tensor, Tensor], Any]) -> Tensor:
    """The batch with the chosen samples changed.

    Args:
        chosen: (B,) bool on the host, so that the number of samples is known without a synchronisation.
        change: (samples, their indices) to the changed samples.
    """
    index = chosen.nonzero().squeeze(1)
    if len(index) == 0:
        return x
    if len(index) == len(x):
        return change(x, index).contiguous()  # type: ignore[no-any-return]
    where = index.to(x.device, non_blocking=True)
    x[where] = change(x[where], index)
    return x
