"""Lines in an SVG: one picture of several small diagrams, logarithmic to the right, from zero upwards."""

import html
import math

WIDTH, HEIGHT = 300, 200
LEFT, BOTTOM, TOP, RIGHT = 58, 34, 30, 14
COLOURS = ("#0b62a4", "#c4581a", "#5f8f2f")
STYLE = ("text{font:11px sans-serif;fill:#222}.title{font-weight:bold}.axis{stroke:#999}"
         "@media(prefers-color-scheme:dark){text{fill:#ddd}}")


def label(value):
    for unit, size in (("T", 1 << 40), ("G", 1 << 30)):
        if value >= size:
            return f"{value // size}{unit}"
    return f"{value:,}"


def diagram(title, curves, unit):
    """curves: {name: [(x, y)]}, with the same x in each."""
    xs = [x for x, _ in next(iter(curves.values()))]
    highest = max(y for curve in curves.values() for _, y in curve) or 1
    low, high = math.log(xs[0]), math.log(xs[-1]) if len(xs) > 1 else math.log(xs[0]) + 1

    def at(x, y):
        return (LEFT + (WIDTH - LEFT - RIGHT) * (math.log(x) - low) / (high - low),
                HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * y / highest)

    parts = [f'<text class="title" x="{LEFT}" y="16">{html.escape(title)}</text>',
             f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM}"/>',
             f'<text x="{LEFT - 6}" y="{TOP + 4}" text-anchor="end">{highest:,.0f}</text>',
             f'<text x="{LEFT - 6}" y="{TOP + 17}" text-anchor="end">{html.escape(unit)}</text>',
             f'<text x="{LEFT - 6}" y="{HEIGHT - BOTTOM + 4}" text-anchor="end">0</text>']
    for index, x in enumerate(xs):
        if len(xs) <= 6 or index % 3 == 0 or x == xs[-1]:
            parts.append(f'<text x="{at(x, 0)[0]:.0f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{label(x)}</text>')
    for (name, curve), colour in zip(curves.items(), COLOURS):
        points = [at(x, y) for x, y in curve]
        text = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{text}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"><title>{html.escape(name)}</title></circle>'
                  for x, y in points]
    if len(curves) > 1:
        for index, (name, colour) in enumerate(zip(curves, COLOURS)):
            parts.append(f'<text x="{LEFT + 90 * index}" y="{HEIGHT - 4}" style="fill:{colour}">{html.escape(name)}</text>')
    return parts


def draw(diagrams):
    """diagrams: (title, curves, unit), three in a row."""
    rows = (len(diagrams) + 2) // 3
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {3 * WIDTH} {rows * HEIGHT}"><style>{STYLE}</style>']
    for index, each in enumerate(diagrams):
        parts.append(f'<g transform="translate({index % 3 * WIDTH},{index // 3 * HEIGHT})">')
        parts += diagram(*each)
        parts.append("</g>")
    return "\n".join(parts + ["</svg>", ""])
