"""A run as an SVG: for each cell the targets as dots on one logarithmic line, the ceiling at 1."""

import html
import math

import statistic

ROW = 26
LEFT = 250
WIDTH = 900
TOP = 70
LOW, HIGH = 0.04, 1.6
TICKS = (0.05, 0.1, 0.2, 0.5, 1)

COLOURS = {"rnbd": "#0b62a4", "nbdfuse": "#c4581a", "qemu": "#5f8f2f"}
STYLE = ("text{font:12px sans-serif;fill:#222}.title{font-weight:bold}.grid{stroke:#ddd}.one{stroke:#888}"
         "@media(prefers-color-scheme:dark){text{fill:#ddd}.grid{stroke:#444}.one{stroke:#999}}")


def position(ratio):
    bounded = min(max(ratio, LOW), HIGH)
    return LEFT + (WIDTH - LEFT - 20) * math.log(bounded / LOW) / math.log(HIGH / LOW)


def mark(x, y, spec, label):
    """Filled: over TCP; hollow: over a Unix socket."""
    colour = COLOURS[spec.program]
    fill = colour if spec.socket == "tcp" else "none"
    return (f'<circle cx="{x:.1f}" cy="{y}" r="4.5" fill="{fill}" stroke="{colour}" stroke-width="1.8">'
            f"<title>{html.escape(label)}</title></circle>")


def row(results, cell, place, y):
    parts = [f'<text x="{LEFT - 12}" y="{y + 4}" text-anchor="end">{html.escape(cell.name)}</text>',
             f'<line class="grid" x1="{LEFT}" x2="{WIDTH - 20}" y1="{y}" y2="{y}"/>']
    measured = results.of(cell, place)
    ceiling = measured[results.reference(cell, place)]
    backend = "direct" if cell.group == "fsync" else "memory"
    for spec in results.specs(cell, place):
        if spec.program not in COLOURS:
            continue
        if spec.backend != backend and not (backend == "direct" and spec.kind == "peer"):
            continue
        comparison = statistic.compare(measured[spec.name], ceiling)
        # Drawn from the least round to the most: what the dot alone would hide.
        parts.append(f'<line stroke="{COLOURS[spec.program]}" stroke-opacity="0.45" stroke-width="2" '
                     f'x1="{position(comparison.least):.1f}" x2="{position(comparison.most):.1f}" y1="{y}" y2="{y}"/>')
        parts.append(mark(position(comparison.ratio), y, spec, f"{spec.name} {comparison.ratio:.2f}"))
    return parts


def legend(specs):
    parts = []
    x = 20
    for spec in specs:
        parts.append(mark(x, 40, spec, spec.name))
        label = f"{spec.program}, {'TCP' if spec.socket == 'tcp' else 'Unix'}"
        parts.append(f'<text x="{x + 10}" y="44">{label}</text>')
        x += 24 + 8 * len(label)
    return parts


def draw(results):
    parts = []
    y = TOP
    known = {}
    for place, title in (("file", "Mounted file"), ("loop", "Loop device with direct I/O")):
        cells = [cell for cell, where in results.cells() if where == place and results.reference(cell, where)]
        if not cells:
            continue
        parts.append(f'<text class="title" x="20" y="{y + 4}">{title}</text>')
        y += ROW
        top = y - ROW // 2
        for cell in cells:
            parts += row(results, cell, place, y)
            for spec in results.specs(cell, place):
                if spec.program in COLOURS:
                    known.setdefault((spec.program, spec.socket), spec)
            y += ROW
        bottom = y - ROW // 2
        for tick in TICKS:
            x = position(tick)
            parts.append(f'<line class="{"one" if tick == 1 else "grid"}" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" '
                         f'y2="{bottom}"/>')
            parts.append(f'<text x="{x:.1f}" y="{bottom + 14}" text-anchor="middle">{tick:g}</text>')
        y += ROW
    head = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 10}" width="{WIDTH}" '
            f'height="{y + 10}">', f"<style>{STYLE}</style>",
            '<text class="title" x="20" y="20">Requests a second, as a part of the ceiling: the same FUSE side with '
            "nothing behind it; for fsync the image itself</text>"]
    return "\n".join(head + legend(known.values()) + parts + ["</svg>"]) + "\n"
