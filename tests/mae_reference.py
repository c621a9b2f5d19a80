"""MAE's loss (arXiv:2111.06377) once more, image by image, with the networks of a method of ours."""

import torch
import torch.nn.functional as F


def mae_loss(method, x, order):
    """The mean over images of the squared error of their masked patches; `order` (N, L) has the visible ones first."""
    vit, decoder, side, visible = method.backbone, method.decoder, method.side, method.visible
    total = 0
    for image, places in zip(x, order.tolist(), strict=True):
        seen, hidden = sorted(places[:visible]), sorted(places[visible:])
        grid = image.shape[-1] // side
        squares = [
            image[:, r * side : (r + 1) * side, c * side : (c + 1) * side] for r in range(grid) for c in range(grid)
        ]
        kernel = vit.patch_embed.proj.weight.flatten(1)
        tokens = torch.stack([kernel @ s.flatten() for s in squares]) + vit.patch_embed.proj.bias
        tokens = tokens + vit.pos_embed[0, 1:]
        sequence = torch.cat([vit.cls_token[0] + vit.pos_embed[0, :1], tokens[seen]])
        for block in vit.blocks:
            sequence = block(sequence[None])[0]
        z = F.linear(vit.norm(sequence), decoder.embed.weight, decoder.embed.bias)
        row = iter(z[1:])
        whole = [next(row) if i in seen else decoder.mask_token[0, 0] for i in range(len(squares))]
        y = torch.cat([z[:1], torch.stack(whole) + sines(len(squares), z.shape[1]).to(z.dtype)])
        for block in decoder.blocks:
            y = block(y[None])[0]
        predicted = F.linear(decoder.norm(y), decoder.head.weight, decoder.head.bias)[1:]
        for i in hidden:
            target = squares[i].permute(1, 2, 0).flatten()
            if method.normalise_pixels:
                target = (target - target.mean()) / (target.var() + 1e-6) ** 0.5
            total = total + ((predicted[i] - target) ** 2).mean() / len(hidden)
    return total / len(x)


def sines(count, width):
    """The position embedding of a square of `count` patches, number by number."""
    grid, quarter = int(count**0.5), width // 4
    out = torch.zeros(count, width, dtype=torch.float64)
    for place in range(count):
        for part, (number, wave) in enumerate(
            [
                (place % grid, torch.sin),
                (place % grid, torch.cos),
                (place // grid, torch.sin),
                (place // grid, torch.cos),
            ]
        ):
            for i in range(quarter):
                out[place, part * quarter + i] = wave(
                    torch.tensor(number / 10_000 ** (i / quarter), dtype=torch.float64)
                )
    return out.float()  # as the buffer is
