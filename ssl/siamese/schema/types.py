"""Types of settings. A constructor's argument that is annotated with one of them checks its key in conf/.

Validation is pydantic's strict mode: a switch is true or false only, text is not a number, NaN and infinity are
refused. Upper bounds that no machine reaches turn a typing mistake into a message.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Len, Lt
from pydantic import AfterValidator, Field


@dataclass(frozen=True)
class Says:
    """The description of the type in messages."""

    text: str


@dataclass(frozen=True)
class Like:
    """Arguments of ``**kwargs``, or of each mapping in a list, are those of `target`: a class, or a list of classes."""

    target: Any


class Group:
    """A node without a class of its own: the annotations of a subclass are its keys.

    Attributes:
        rest: the type of any further key; None refuses further keys.
    """

    rest = None


@dataclass(frozen=True)
class Built:
    """A node with `_target_`.

    Args:
        also: keys beside the arguments of the target, or types of arguments that the target does not annotate.
        extra: further keys; with it the arguments of the target are not looked up.
        own: argument that the run sets itself -> the key to use instead.
        optional: the node may be empty.
        partial: the node must be `_partial_`, because the run calls the target with further arguments.
    """

    also: type[Group] | None = None
    extra: type[Group] | None = None
    own: Mapping[str, str] = field(default_factory=dict, hash=False)
    optional: bool = False
    partial: bool = False


def _rising(values: Any) -> Any:
    if list(values) != sorted(values):
        raise ValueError("must rise")
    return values


def _increasing(values: Any) -> Any:
    if not values[1] - values[0] > 1e-6 * max(map(abs, values)):
        raise ValueError("must increase")
    return values


def _countable(value: int) -> int:
    if value > 2**53:
        raise ValueError("is too large")
    return value


MOST_CHANNELS = 32
EIGHT_BITS = (0.0, 255.0)  # the value range of 8-bit images

Count = Annotated[int, Ge(1), AfterValidator(_countable)]
AtLeastTwo = Annotated[int, Ge(2), AfterValidator(_countable)]
Natural = Annotated[int, Ge(0), AfterValidator(_countable)]
Depth = Annotated[int, Ge(1), Le(1000)]  # layers or blocks
Pixels = Annotated[int, Ge(1), Le(1 << 14)]
Width = Annotated[int, Ge(1), Le(1 << 16)]  # of a layer
HeadLayers = Annotated[int, Ge(1), Le(8)]  # Linear layers of a projection head
Classes = Annotated[int, Ge(2), Le(1 << 20)]  # classes of a softmax without labels
TokenWidth = Annotated[int, Ge(4), Le(4096)]  # of a transformer
Blocks = Annotated[int, Ge(1), Le(64)]  # of a transformer
Positives = Annotated[Sequence[Annotated[float, Gt(0)]], Len(1), Says("a list of numbers above 0, as in [1,2]")]
NonNegatives = Annotated[
    Sequence[Annotated[float, Ge(0)]], Len(1), Says("a list of numbers of at least 0, as in [0,1]")
]
MostPixels = Annotated[int, Ge(1), Le(1 << 40)]
Globs = Annotated[Sequence[str], Says("a list of globs, as in ['*.png','train/**']")]
Widths = Annotated[Sequence[Width], Len(1, 64), Says("a list of one or more whole numbers of at least 1")]
ViewCount = Annotated[int, Ge(1), Le(64)]  # views of one list
Seed = Annotated[int, Ge(0), Le(2**32 - 1)]
Workers = Annotated[int, Ge(0), Le(1024)]
Positive = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]
Probability = Annotated[float, Ge(0), Le(1)]
Share = Annotated[float, Gt(0), Le(1)]
Percentile = Annotated[float, Gt(0), Lt(100)]
ProperShare = Annotated[float, Gt(0), Lt(1)]

# A name is used in paths and tables.
Name = Annotated[str, Field(pattern=r"^\w[\w.+-]{0,99}$"), Says("a name of letters, digits, _ . + -")]
PathText = Annotated[
    Annotated[str, Field(pattern=r"^[^\x00]*[^\s\x00][^\x00]*$")] | int,
    Says("a path (in quotes where it looks like a number: run_dir='\"2024.10\"')"),
]

Angle = Annotated[float, Ge(0), Le(180)]


def _turn_of_hue(strengths: Any) -> Any:
    if strengths[3] > 0.5 or max(strengths) > 10:
        raise ValueError("is too strong")
    return strengths


Jitter = Annotated[
    Sequence[NonNegative], Len(4, 4), AfterValidator(_turn_of_hue),
    Says("four strengths in [0, 10] (brightness, contrast, saturation, hue), the hue's at most 0.5"),
]  # fmt: skip
Interpolation = Literal["bilinear", "bicubic"]
CropScale = Annotated[
    Sequence[Share], Len(2, 2), AfterValidator(_rising), Says("two parts of the area, rising, in (0, 1]")
]
Range = Annotated[Sequence[Positive], Len(2, 2), AfterValidator(_rising), Says("two rising numbers above 0")]
Channels = Literal["auto"] | Annotated[int, Ge(1), Le(MOST_CHANNELS)]
KnownMean = Annotated[
    Sequence[Probability],
    Len(1, MOST_CHANNELS),
    Says("a number in [0, 1] for each channel, where 1 is the brightest value"),
]
Mean = Annotated[
    Literal["auto"] | KnownMean,
    Says("auto, or a number in [0, 1] for each channel, where 1 is the brightest value"),
]
KnownStd = Annotated[
    Sequence[Annotated[float, Ge(1e-4), Le(1)]],
    Len(1, MOST_CHANNELS),
    Says("a number in [0.0001, 1] for each channel, where 1 is the brightest value"),
]
Std = Annotated[
    Literal["auto"] | KnownStd,
    Says("auto, or a number in [0.0001, 1] for each channel, where 1 is the brightest value"),
]
Shown = Annotated[
    Annotated[Sequence[Annotated[int, Ge(0), Lt(MOST_CHANNELS)]], Len(3, 3)] | None,
    Says("three numbers of channels, from 0, as in [3,2,1], or null"),
]
_Interval = Annotated[Sequence[float], Len(2, 2), AfterValidator(_increasing)]
ValueRange = Annotated[
    Literal["auto"] | _Interval | Annotated[Sequence[_Interval], Len(1, MOST_CHANNELS)],
    Says("auto, or [LOW,HIGH], the values that become 0 and 1, or such a pair for each channel"),
]
Temperature = Annotated[float, Ge(1e-3), Le(1e3)]
Epochs = Annotated[int, Ge(1), Le(100_000)]  # of a probe
