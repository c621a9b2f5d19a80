"""`kernels`, launched: a view on a GPU by three launches and one copy of all its random parameters; two more launches
where images are blurred, one more where they are rotated."""

from collections.abc import Mapping, Sequence

import torch
import triton
from torch import Tensor

from siamese.augment import kernels, ops
from siamese.augment.operation import CompilerError, Operation, check_fields
from siamese.augment.params import ViewParams

BLOCK = 1024  # pixels of a program
# Fields of `ViewParams` that the kernels compute with.
FIELDS = frozenset(
    ("degrees", "box", "flip", "factors", "order", "jitter", "gray", "blur", "sigma", "solarize", "drop")
)
NOTHING = 4  # the place of a contrast, or an entry of an order, that changes nothing


def check_known(operations: Sequence[Operation], device: torch.device) -> str:
    """Compile a kernel and check that the kernels know the operations. Returns a note, as `native.check_known` does.

    Raises:
        CompilerError: Triton cannot compile for this GPU, or the kernels do not know an active operation; torch then
            renders the views.
    """
    check_fields(operations, FIELDS, "kernels.py")
    try:
        try_compiler(device)
    except CompilerError as error:
        raise CompilerError(f"{error}: torch renders", error.remedy) from error
    return f", Triton {triton.__version__}"


def try_compiler(device: torch.device) -> None:
    """Compile a kernel, to see whether Triton can.

    Raises:
        CompilerError: it cannot; the message says why.
    """
    try:
        compile_one(device)
    except Exception as error:  # there is no C compiler, the GPU is too old: Triton has no common class for these
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise CompilerError(f"Triton cannot compile here ({reason})", "install gcc") from error


def compile_one(device: torch.device) -> None:
    """Compile and launch a kernel, on an image of one pixel."""
    pixel, one = torch.zeros(1, 1, 1, 1, device=device), torch.ones(1, device=device)
    params = torch.zeros(1, len(kernels.PARAMETERS), device=device)
    with torch.cuda.device(device):
        kernels.rotate[(1,)](pixel, params, one - 1, one, torch.empty_like(pixel), 1, 1, 1, 1, 1, BLOCK=BLOCK)


def packed(params: ViewParams, gray_first: bool) -> Tensor:
    """(B, len(kernels.PARAMETERS)) float32 on the host: all parameters of a view, in the order of the kernels."""
    jitter = params.jitter.unsqueeze(1)
    order = torch.where(jitter, params.order, NOTHING)
    before = torch.where(jitter, (params.order == ops.CONTRAST).to(torch.int64).argmax(1, keepdim=True), NOTHING)
    threshold = torch.where(params.solarize, 0.5, torch.inf)
    angle = torch.deg2rad(params.degrees)
    columns = [
        params.box, params.flip, angle.cos(), angle.sin(), params.factors, order, before,
        params.gray * (1 if gray_first else 2), params.blur, params.sigma, threshold, params.drop,
    ]  # fmt: skip
    return torch.cat([c.view(len(c), -1).float() for c in columns], 1)


def _check(images: Tensor, params: ViewParams, channels: int) -> None:
    """Refuse what would read beyond an image.

    Raises:
        ValueError: numbers of images, channels or parameters, or a box, that do not fit.
    """
    count, stored, height, width = images.shape
    if stored not in (1, channels):
        raise ValueError(f"the images have {stored} channels, the view has {channels}")
    box = params.box
    if box.shape != (count, 4):
        raise ValueError(f"box is {tuple(box.shape)}, not {(count, 4)}")
    end = box[:, :2] + box[:, 2:]
    if bool((box[:, :2] < 0).any() | (box[:, 2:] < 1).any() | (end > torch.tensor([height, width])).any()):
        raise ValueError(f"a box has no pixel or leaves its image of {height} x {width} pixels: {box.tolist()}")


def render(
    images: Tensor, params: ViewParams, operations: Sequence[Operation], size: int, scale: Mapping[str, Tensor]
) -> Tensor:
    """`View.render` by Triton kernels.

    Args:
        images: (B, C, H, W) of any type, or (B, 1, H, W), repeated.
        params: the random parameters, on the host.
        operations, size: of the view.
        scale: `low`, `high`, `mean`, `std` of the view, each (C,), on the images' device.

    Returns:
        (B, C, size, size) float32.

    Raises:
        ValueError: a box leaves its image, or numbers do not fit. Nothing is rendered.
    """
    low, high, mean, std = (scale[name] for name in ("low", "high", "mean", "std"))
    _check(images, params, len(mean))
    count, _, height, _ = images.shape
    channels, device = len(mean), images.device
    out = torch.empty(count, channels, size, size, device=device)
    if not count:
        return out
    options: dict[str, int] = {}
    for operation in operations:
        options |= operation.options()
    bicubic, colour = bool(options["bicubic"]), channels == 3
    host = packed(params, bool(options["gray_first"]))
    given = (host.pin_memory() if images.is_cuda else host).to(device, non_blocking=True)
    planes = count * channels
    groups = count if colour else planes  # of planes that a program computes together
    tiles = triton.cdiv(size * size, BLOCK)
    with torch.cuda.device_of(images):
        lines = _lines(images.contiguous(), given, low, high, size, bicubic, bool(params.degrees.any()))
        sums = torch.empty(groups * tiles, device=device)
        kernels.resize_rows[(groups * tiles,)](
            lines, given, out, sums, height, size, channels, tiles, BICUBIC=bicubic, COLOUR=colour, BLOCK=BLOCK
        )
        kernels.colours[(groups * tiles,)](
            out, given, sums, mean, std, size, channels, tiles,
            COLOUR=colour, TILES=triton.next_power_of_2(tiles), BLOCK=BLOCK,
        )  # fmt: skip
        if bool(params.blur.any()):
            half, reach = torch.empty_like(out), options["blur_kernel"] // 2
            for source, target, rows in ((out, half, True), (half, out, False)):
                kernels.blur[(planes * tiles,)](
                    source, target, given, mean, std, size, channels, tiles, reach, ROWS=rows, BLOCK=BLOCK
                )
    return out


def _lines(images: Tensor, given: Tensor, low: Tensor, high: Tensor, size: int, bicubic: bool, rotates: bool) -> Tensor:
    """(B * C, H, size): the rows of each box, resized, at the start of its lines; of (B, C or 1, H, W) images."""
    count, stored, height, width = images.shape
    channels, device = len(low), images.device
    planes = count * channels
    if rotates:
        turned = torch.empty(count, channels, height, width, device=device)
        tiles = triton.cdiv(height * width, BLOCK)
        kernels.rotate[(planes * tiles,)](
            images, given, low, high, turned, height, width, channels, stored, tiles, BLOCK=BLOCK
        )
        images, stored = turned, channels
    lines, tiles = torch.empty(planes, height, size, device=device), triton.cdiv(height * size, BLOCK)
    kernels.resize_columns[(planes * tiles,)](
        images, given, low, high, lines, height, width, size, channels, stored, tiles,
        LEVELS=not rotates, BICUBIC=bicubic, BLOCK=BLOCK,
    )  # fmt: skip
    return lines
