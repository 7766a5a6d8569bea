"""Drawing a Kolmogorov-Arnold network: nodes in rows, a small curve on every edge. Plain SVG, nothing to install."""

from itertools import accumulate

from torch import Tensor

Layer = tuple[Tensor, Tensor, Tensor]  # (points, in), (points, out, in) and (out, in); the widths differ by layer

_BOX, _GAP, _ROW = 34, 14, 120  # pixels: side of a curve's box, space between boxes, height of a layer


def draw(layers: list[Layer]) -> str:
    """SVG text of a network.

    Arguments:
        layers: for each layer the points, the edges' curves at them, and how large each edge is.
    """
    widths = [layers[0][0].shape[1], *(curves.shape[1] for _, curves, _ in layers)]
    boxes = max(curves.shape[1] * curves.shape[2] for _, curves, _ in layers)
    width = max(boxes, *widths) * (_BOX + _GAP) + _GAP
    height = len(layers) * _ROW + 2 * _GAP
    below = list(accumulate([height - _GAP, *[-_ROW] * len(layers)]))
    text = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'fill="none" stroke="currentColor" role="img" aria-label="Kolmogorov-Arnold network">'
    ]
    for depth, (at, curves, sizes) in enumerate(layers):
        outs, ins = curves.shape[1:]
        middle = (below[depth] + below[depth + 1]) / 2
        for i in range(ins):
            for j in range(outs):
                centre = width * (i * outs + j + 0.5) / (ins * outs)
                shade = min(1.0, 0.05 + float(sizes[j, i] / sizes.max().clamp(min=1e-12)))
                text.append(
                    f'<g opacity="{shade:.2f}">'
                    f'<path d="M{_place(width, i, ins):.1f} {below[depth]:.1f}L{centre:.1f} {middle + _BOX / 2:.1f}'
                    f'M{centre:.1f} {middle - _BOX / 2:.1f}L{_place(width, j, outs):.1f} {below[depth + 1]:.1f}"/>'
                    f'<rect x="{centre - _BOX / 2:.1f}" y="{middle - _BOX / 2:.1f}" width="{_BOX}" height="{_BOX}"/>'
                    f'<polyline points="{_curve(at[:, i], curves[:, j, i], centre, middle)}" stroke-width="2"/></g>'
                )
    for depth, count in enumerate(widths):
        text += [
            f'<circle cx="{_place(width, i, count):.1f}" cy="{below[depth]}" r="4" fill="currentColor"/>'
            for i in range(count)
        ]
    return "\n".join([*text, "</svg>"])


def _place(width: int, index: int, count: int) -> float:
    return width * (index + 0.5) / count


def _curve(x: Tensor, y: Tensor, centre: float, middle: float) -> str:
    """Points of a curve, scaled to its box with a little margin."""
    side = _BOX - 6

    def scaled(values: Tensor) -> Tensor:
        low, high = values.min(), values.max()
        return (values - low) / (high - low).clamp(min=1e-12) - 0.5

    across, up = centre + side * scaled(x), middle - side * scaled(y)
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(across.tolist(), up.tolist(), strict=True))
