"""Where a model's time goes: modules and operators as an icicle, operators under their roofline."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup, escape

from visiondyno.measurements.roofline import Roofline
from visiondyno.report.format import number, shorten
from visiondyno.report.plots import (
    SERIES,
    Canvas,
    Frame,
    Scale,
    draw_x_axis,
    draw_y_axis,
    fit_scale,
    series_class,
    text_width,
)
from visiondyno.report.profile_result import OperatorRow, Profile

_ROW, _ROW_NARROW = 25, 22
_LEAST_LABEL = 14
_MOST_LABELS = 4
_SCOPED_SHARE = 0.5
BETWEEN = "between operators"


def kind_classes(profile: Profile) -> dict[str, str]:
    """The colour of each type: the seven that take longest have one, the others share the last."""
    return {
        row.kind: series_class(min(place, SERIES - 1)) for place, row in enumerate(profile.kinds)
    }


@dataclass(slots=True)
class Node:
    """A module, scope or operator, and what is inside it, in order of execution."""

    name: str
    ms: float = 0.0
    row: OperatorRow | None = None
    inside: dict[str, "Node"] = field(default_factory=dict)

    @property
    def depth(self) -> int:
        """How many rows it needs."""
        return 1 + max((node.depth for node in self.inside.values()), default=0)


def is_scoped(profile: Profile) -> bool:
    """Whether the operators' names say which modules they are in."""
    return sum(row.share for row in profile.operators if len(row.path) > 1) > _SCOPED_SHARE


def tree_of(profile: Profile) -> Node:
    """Operators by the modules around them; by their types where their names hold no path."""
    scoped = is_scoped(profile)
    root = Node("inference")
    for row in profile.operators:
        path = row.path if scoped else (row.kind, row.label)
        node = root
        node.ms += row.ms
        for part in path[:-1]:
            node = node.inside.setdefault(part, Node(part))
            node.ms += row.ms
        # One name may stand for a scope and for an operator beside it.
        node.inside[f"{path[-1]}\0{row.name}"] = Node(path[-1], row.ms, row)
    if not scoped:
        root.inside = dict(sorted(root.inside.items(), key=lambda item: -item[1].ms))
    return _joined(root)


def _joined(node: Node) -> Node:
    """With one node for a scope that holds nothing but another scope."""
    node.inside = {key: _joined(one) for key, one in node.inside.items()}
    while len(node.inside) == 1 and node.row is None and node.name != "inference":
        (only,) = node.inside.values()
        node = Node(f"{node.name}.{only.name}", node.ms, only.row, only.inside)
    return node


def icicle(profile: Profile, width: float) -> Markup:
    """Every module and operator as wide as it takes long; what is below is inside."""
    tree = tree_of(profile)
    height = _ROW_NARROW if width < 450 else _ROW
    between = max(0.0, profile.times_ms.between)
    canvas = Canvas(width, height * tree.depth + 2, f"Time of each operator of {profile.model}")
    scale = Scale(0, (tree.ms + between) or 1.0, 1, width - 1)
    classes = kind_classes(profile)
    total = tree.ms + between
    box = (scale(0), 0.0, scale(total) - scale(0), height - 2.0)
    # Operators that took longer with their profiler than the inference without are not the latter.
    whole = "inference" if between > 0 else "operators"
    _block(canvas, box, "scope", f"{whole} · {number(total)} ms", f"{whole}, {number(total)} ms")
    for node, began, depth in _walk(tree, 0.0, 1):
        box = (scale(began), depth * height, scale(began + node.ms) - scale(began), height - 2.0)
        css = "scope" if node.row is None else f"leaf {classes[node.row.kind]}"
        _block(canvas, box, css, node.name, _tooltip(node, total, whole))
    if between > 0:
        box = (scale(tree.ms), float(height), scale(total) - scale(tree.ms), height - 2.0)
        title = f"{BETWEEN}: {number(between)} ms, {between / total:.1%} of the inference"
        _block(canvas, box, "leaf between", BETWEEN, title)
    return canvas.svg()


def _walk(node: Node, began: float, depth: int) -> Iterator[tuple[Node, float, int]]:
    for one in node.inside.values():
        yield one, began, depth
        yield from _walk(one, began, depth + 1)
        began += one.ms


def _block(
    canvas: Canvas, box: tuple[float, float, float, float], css: str, label: str, title: str
) -> None:
    x, y, width, height = box
    canvas.rect((x, y, max(0.4, width - (0.8 if width > 3 else 0)), height), css, title)
    room = int((width - 8) / text_width("n", 11))
    if width > _LEAST_LABEL and room >= min(len(label), 4):
        canvas.text(
            x + 4, y + height / 2 + 4, shorten(label, room), f"in-{css.split(maxsplit=1)[0]}"
        )


def _tooltip(node: Node, total: float, whole: str) -> str:
    text = f"{node.name}: {number(node.ms)} ms, {node.ms / (total or 1):.1%} of the {whole}"
    if node.row is None:
        return text
    row = node.row
    more = [row.kind, row.kernel, f"{row.inputs} → {row.outputs}" if row.outputs else row.inputs]
    if row.limit_share is not None:
        more.append(f"{row.limit_share:.0%} of the {row.limit} limit")
    return "\n".join([f"{row.name}: {text.partition(': ')[2]}", *filter(None, more)])


def roofline_plot(profile: Profile, roofline: Roofline, width: float) -> Markup:
    """Operations a second over operations a byte, both logarithmic; a dot's area is its time."""
    height = width * 1.02 if width < 450 else width * 0.6
    canvas = Canvas(width, height, f"Roofline of {profile.model}: operators under its two limits")
    frame = Frame(50, 30, width - 12, height - 42)
    rows = drawn_operators(profile)
    peak = roofline.flop_per_s / 1e9
    xs = [roofline.ridge, roofline.ridge * 4, *(row.intensity or 1.0 for row in rows)]
    ys = [peak, *(row.gflop_per_s or 1.0 for row in rows)]
    ys.append(roofline.attainable_flop_per_s(min(xs)) / 1e9)
    x_scale = fit_scale(xs, frame.left, frame.right, log=True, margin=0.05)
    y_scale = fit_scale(ys, frame.bottom, frame.top, log=True, margin=0.07)
    draw_x_axis(canvas, frame, x_scale, "operations a byte", count=5 if width < 450 else 7)
    draw_y_axis(canvas, frame, y_scale, "GFLOP/s · log scale", count=5)
    _roof(canvas, frame, (x_scale, y_scale), roofline)
    classes = kind_classes(profile)
    longest = max((row.ms for row in rows), default=1.0)
    taken: list[tuple[float, float, float, float]] = []
    for row in rows:
        x, y = x_scale(row.intensity or 1.0), y_scale(row.gflop_per_s or 1.0)
        radius = 2.5 + (9 if width < 450 else 13) * math.sqrt(row.ms / longest)
        canvas.add(
            f'<circle class="operator {classes[row.kind]}" cx="{x:.1f}" cy="{y:.1f}" '
            f'r="{radius:.1f}"><title>{escape(_dot_title(row))}</title></circle>'
        )
    _roof_words(canvas, frame, (x_scale, y_scale), roofline)
    for row in rows[:_MOST_LABELS]:
        place = (x_scale(row.intensity or 1.0), y_scale(row.gflop_per_s or 1.0))
        _label(canvas, frame, place, row, taken)
    return canvas.svg()


def drawn_operators(profile: Profile) -> list[OperatorRow]:
    """Those that compute, and whose shapes are known; that which takes longest first."""
    found = [row for row in profile.operators if row.intensity and row.gflop_per_s]
    return sorted(found, key=lambda row: -row.ms)


def _dot_title(row: OperatorRow) -> str:
    share = "" if row.limit_share is None else f", {row.limit_share:.0%} of the {row.limit} limit"
    return (
        f"{row.name} ({row.kind})\n{number(row.ms)} ms, {row.share:.1%} of the operators' time\n"
        f"{number(row.gflop_per_s or 0)} GFLOP/s at {number(row.intensity or 0)} operations a byte"
        f"{share}"
    )


def _roof(canvas: Canvas, frame: Frame, scales: tuple[Scale, Scale], roofline: Roofline) -> None:
    x_scale, y_scale = scales
    left, right, ridge = x_scale.low, x_scale.high, roofline.ridge
    points = [
        (x_scale(x), y_scale(roofline.attainable_flop_per_s(x) / 1e9)) for x in (left, ridge, right)
    ]
    # The frame's lower edge may cut the slope.
    shown = [(x, min(y, frame.bottom)) for x, y in points]
    canvas.area([*shown, (shown[-1][0], frame.top), (shown[0][0], frame.top)], "dominated")
    canvas.path(shown, "front")


def _roof_words(canvas: Canvas, frame: Frame, scales: tuple[Scale, Scale], roof: Roofline) -> None:
    """Written over the dots."""
    x_scale, y_scale = scales
    x, y = x_scale(x_scale.low), y_scale(roof.attainable_flop_per_s(x_scale.low) / 1e9)
    x_ridge, y_ridge = x_scale(roof.ridge), y_scale(roof.flop_per_s / 1e9)
    angle = math.degrees(math.atan2(y_ridge - y, x_ridge - x))
    at = (x + 0.3 * (x_ridge - x), y + 0.3 * (y_ridge - y))
    text = f"memory {number(roof.bytes_per_s / 1e9)} GB/s"
    canvas.add(
        f'<text class="on-line" text-anchor="middle" transform="translate({at[0]:.1f} '
        f'{at[1]:.1f}) rotate({angle:.1f}) translate(0 -7)">{escape(text)}</text>'
    )
    text = f"compute {number(roof.flop_per_s / 1e9)} GFLOP/s"
    canvas.text(frame.right, y_ridge - 7, text, "on-line", "end")


def _label(
    canvas: Canvas,
    frame: Frame,
    place: tuple[float, float],
    row: OperatorRow,
    taken: list[tuple[float, float, float, float]],
) -> None:
    """The name where it covers no other name; none where there is no such place."""
    text = shorten("/".join(row.path[-3:]), 26)
    length = text_width(text, 11.5)
    x, y = place
    for dx, dy in ((16, 4), (-16 - length, 4), (-length / 2, 28), (-length / 2, -20), (16, 20)):
        box = (x + dx, y + dy - 11, x + dx + length, y + dy + 3)
        inside = frame.left < box[0] and box[2] < frame.right and box[3] < frame.bottom
        if inside and not any(
            box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken
        ):
            taken.append(box)
            canvas.text(box[0], y + dy, text, "point-label")
            return
    return


def legend_of(profile: Profile, rows: Sequence[OperatorRow]) -> list[tuple[str, str]]:
    """Types among `rows` with their colours; those of the last colour as one."""
    classes = kind_classes(profile)
    there = {row.kind for row in rows}
    last = series_class(SERIES - 1)
    shown = [(kind, css) for kind, css in classes.items() if kind in there and css != last]
    rest = [kind for kind in classes if kind in there and classes[kind] == last]
    if rest:
        shown.append((rest[0] if len(rest) == 1 else f"{len(rest)} other types", last))
    return shown
