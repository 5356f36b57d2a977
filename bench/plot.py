"""Bars as SVG, from the standard library: one picture a workload."""

import statistics
from xml.sax.saxutils import escape

WIDTH = 760
LABEL = 250
BAR = 15
GAP = 14
FONT = "font-family='sans-serif' font-size='12'"
COLOURS = {
    "plain": "#9aa0a6", "trigger": "#c7cbd1", "cozesync": "#0b6e4f", "native": "#3367a6",
    "pglogical": "#7aa6d8", "slony": "#b5651d", "londiste": "#d9a066", "audit": "#a23e48",
}


def bar(y, name, values, unit, longest):
    value = statistics.median(values)
    room = WIDTH - LABEL - 150
    width = max(1.0, value / longest * room)
    low, high = (v / longest * room for v in (min(values), max(values)))
    middle = y + BAR / 2
    return [
        f"<rect x='{LABEL}' y='{y}' width='{width:.1f}' height='{BAR}' fill='{COLOURS.get(name, '#555')}'/>",
        f"<line x1='{LABEL + low:.1f}' x2='{LABEL + high:.1f}' y1='{middle}' y2='{middle}' stroke='#222'/>",
        f"<text x='{LABEL + max(width, high) + 6:.1f}' y='{y + 12}' {FONT} fill='#222'>{value:.3g} {escape(unit)}</text>",
    ]


def picture(title, cases, titles):
    """cases: {(case, unit): {system: [figure of each round]}}; the SVG as text."""
    y = 34
    parts = [f"<text x='8' y='20' {FONT} font-weight='bold' fill='#222'>{escape(title)}</text>"]
    for (case, unit), systems in cases.items():
        longest = max(max(values) for values in systems.values()) or 1.0
        parts.append(f"<text x='8' y='{y + 12}' {FONT} fill='#222'>{escape(case)}</text>")
        y += BAR + 4
        for name, values in systems.items():
            parts.append(f"<text x='{LABEL - 6}' y='{y + 12}' {FONT} text-anchor='end' fill='#555'>"
                         f"{escape(titles[name])}</text>")
            parts += bar(y, name, values, unit, longest)
            y += BAR + 3
        y += GAP
    return (f"<svg xmlns='http://www.w3.org/2000/svg' width='{WIDTH}' height='{y}' "
            f"viewBox='0 0 {WIDTH} {y}'>\n<rect width='100%' height='100%' fill='white'/>\n" +
            "\n".join(parts) + "\n</svg>\n")
