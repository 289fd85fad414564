"""What a figure's letters lie over, and which of its axes say no unit: seen from their boxes as they are drawn."""

import itertools
import re

import pytest
from matplotlib.text import Text

SLACK = 0.5  # points that boxes may share: letters have air around them
UNIT = re.compile(r"\[[^\[\]]+\]$")


def drawn(figure):
    """Every text that is drawn, with its box in points; drawing lays the figure out."""
    boxes, draw = {}, Text.draw

    def noted(self, renderer, *rest, **options):
        draw(self, renderer, *rest, **options)
        if self.get_visible() and self.get_text().strip():
            boxes[self] = self.get_window_extent(renderer).transformed(figure.dpi_scale_trans.inverted())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", noted)
        figure.canvas.draw()
    return [(text.get_text(), 72 * box.get_points()) for text, box in boxes.items()]


def over(one, other):
    """Whether two boxes [2, 2], lower left and upper right, share more than letters have air."""
    return bool((one[0] + SLACK < other[1]).all() and (other[0] + SLACK < one[1]).all())


def overlaps(figure):
    """Which texts lie over each other, leave the figure, or are in a legend that hides a line, in words."""
    texts = drawn(figure)
    high = 72 * figure.get_size_inches() + SLACK
    found = [f"{one!r} over {two!r}" for (one, at), (two, by) in itertools.combinations(texts, 2) if over(at, by)]
    found += [f"{text!r} leaves the figure" for text, box in texts if (box < -SLACK).any() or (box > high).any()]
    for axis in figure.axes:
        if axis.get_legend():
            box = axis.get_legend().get_window_extent()
            paths = [line.get_transform().transform_path(line.get_path()).interpolated(20) for line in axis.lines]
            found += ["a legend over a line" for path in paths if any(box.contains(*point) for point in path.vertices)]
    return found


def without_unit(figure):
    """Axes with numbers or words on them whose name ends without a unit, as a drawn figure has them."""
    found = []
    for axis in figure.axes:
        for own, shown in ((axis.xaxis, "labelbottom"), (axis.yaxis, "labelleft")):
            ticks = [label for label in own.get_ticklabels() if label.get_visible() and label.get_text()]
            colorbar = axis.get_subplotspec() is None or not own.get_tick_params().get(shown, True)
            if ticks and not colorbar and not UNIT.search(own.get_label_text()):
                found.append(f"{own.axis_name} axis {own.get_label_text()!r} of the panel {axis.get_title()!r}")
            if own.get_label_text() and not UNIT.search(own.get_label_text()):
                found.append(f"the name {own.get_label_text()!r}")
    return found
