"""docs/overview.svg: the way from a network to the hardware, one Program in the middle."""

from html import escape

__all__ = ["picture"]

_WIDTH, _HEIGHT = 920, 350
_FILL = {"source": "#eef3fb", "program": "#fff3d6", "executor": "#e9f6ec",
         "hardware": "#f7e9f3"}
#: (x, y, width, height, kind, title, lines of text)
_BOXES = (
    (20, 30, 200, 76, "source", "8-bit training", ("PyTorch, RangeBN,", "bifurcated gradients")),
    (20, 126, 200, 76, "source", "float networks", ("quantized without", "training, 2 to 8 bits")),
    (20, 222, 200, 76, "source", "int8 models", ("TFLite, ONNX,", "imported")),
    (290, 106, 190, 116, "program", "Program",
     ("integers, scales, state;", "no accumulator can", "overflow: proven")),
    (550, 20, 160, 56, "executor", "golden", ("numpy, the contract",)),
    (550, 86, 160, 56, "executor", "torch", ("CPU and CUDA",)),
    (550, 152, 160, 56, "executor", "ONNX Runtime", ("exported model",)),
    (550, 218, 160, 56, "executor", "RTL", ("Verilator, every cycle",)),
    (770, 86, 130, 122, "program", "compared", ("every tensor,", "every bit:", "0 differences")),
    (290, 258, 190, 72, "hardware", "deployment", ("Verilog, memory image,",
                                                  "headers, vectors")),
)
#: (x0, y0, x1, y1)
_ARROWS = (
    (220, 68, 290, 130), (220, 164, 290, 164), (220, 260, 290, 198),
    (480, 130, 550, 48), (480, 152, 550, 114), (480, 174, 550, 180), (480, 196, 550, 246),
    (710, 48, 770, 112), (710, 114, 770, 134), (710, 180, 770, 158), (710, 246, 770, 182),
    (385, 222, 385, 258),
)


def _text(x: float, y: float, words: str, *, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return (f'<text x="{x}" y="{y}" text-anchor="middle" font-size="{16 if bold else 13}"'
            f'{weight}>{escape(words)}</text>')


def _box(x, y, width, height, kind, title, lines) -> list[str]:
    middle = x + width / 2
    top = y + (height - 18 * (len(lines) + 1)) / 2 + 15
    return [f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" '
            f'fill="{_FILL[kind]}" stroke="#555"/>', _text(middle, top, title, bold=True),
            *(_text(middle, top + 18 * (n + 1), line) for n, line in enumerate(lines))]


def picture() -> str:
    """The picture as SVG, the same bytes every time."""
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
             f'width="{_WIDTH}" height="{_HEIGHT}" font-family="sans-serif" fill="#222">',
             '<defs><marker id="end" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" '
             'markerHeight="8" orient="auto"><path d="M0 0 8 4 0 8z" fill="#555"/></marker></defs>',
             f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>']
    for x0, y0, x1, y1 in _ARROWS:
        parts.append(f'<line x1="{x0}" y1="{y0}" x2="{x1}" y2="{y1}" stroke="#555" '
                     'stroke-width="1.5" marker-end="url(#end)"/>')
    for box in _BOXES:
        parts += _box(*box)
    return "\n".join([*parts, "</svg>", ""])
