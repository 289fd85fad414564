"""Figures: what the check of their boxes sees, widths, shared axes, and files."""

import matplotlib.pyplot as plt
import polars as pl
import pytest
from PIL import Image

from experiments.kit import plots
from experiments.kit.intervals import Interval
from tests.kit.boxes import overlaps, without_unit

ROWS = pl.DataFrame({"pairs": [512, 512, 512], "seed": [0, 1, 2], "status": ["ok", "ok", "not finite"]})


def plain(rows=2, columns=3, **shared):
    """Panels with all that they need."""
    figure, grid = plots.panels(rows, columns, **shared)
    for axis in grid.flat:
        axis.plot([1, 2], [1, 3], label="a method")
        plots.entitle(axis, "a panel", ROWS)
    plots.name_axes(grid, "labels n [pairs]", "regret [nats]")
    plots.legend_below(figure)
    return figure, grid


def over_titles(figure, grid):
    grid[0, 0].set_title("a title that is far too long for its panel and goes on over the next one")


def many_ticks(figure, grid):
    grid[1, 0].set_xticks([1, 1.01, 1.02], ["a word", "another", "a third"])


def annotations(figure, grid):
    for height in (0.5, 0.51):
        grid[0, 1].text(0.5, height, "here", transform=grid[0, 1].transAxes)


def out_of_the_figure(figure, grid):
    figure.text(0.99, 0.5, "outside")


def legend_on_a_line(figure, grid):
    grid[0, 0].legend(loc="center", labels=["a method with a long name"])


def title_in_the_panel_above(figure, grid):
    grid[1, 0].set_title("\n".join(["lines"] * 3), pad=100)


@pytest.mark.parametrize("width", plots.WIDTHS)
def test_panels_as_they_come_have_no_overlap_and_units(width):
    with plots.at_width(width):
        figure, grid = plain()
    assert not overlaps(figure)
    assert not without_unit(figure)
    assert figure.get_figwidth() == plots.WIDTHS[width]
    assert grid.shape == (2, 3)


@pytest.mark.parametrize(
    "damage",
    [over_titles, many_ticks, annotations, out_of_the_figure, legend_on_a_line, title_in_the_panel_above],
    ids=lambda each: each.__name__,
)
def test_an_overlap_is_seen(damage):
    figure, grid = plain()
    if damage is title_in_the_panel_above:
        figure.set_layout_engine("none")  # which would make room
    damage(figure, grid)
    assert overlaps(figure)


def test_a_missing_unit_is_seen():
    figure, grid = plain()
    overlaps(figure)
    grid[1, 0].set_xlabel("labels")
    assert without_unit(figure) == ["x axis 'labels' of the panel 'a panel\\nn = 512, 2 seeds'", "the name 'labels'"]
    grid[0, 0].set_ylabel("")
    assert len(without_unit(figure)) == 3


def test_a_row_that_is_too_long_is_broken_and_shares_what_it_shared():
    with plots.at_width("column"):
        _, grid = plain(rows=2, columns=3, sharey="row")
    places = [(axis.get_subplotspec().rowspan.start, axis.get_subplotspec().colspan.start) for axis in grid.flat]
    assert places == [(0, 0), (0, 1), (1, 0), (2, 0), (2, 1), (3, 0)]
    assert grid[0, 2].get_shared_y_axes().joined(grid[0, 0], grid[0, 2])
    assert not grid[0, 0].get_shared_y_axes().joined(grid[0, 0], grid[1, 0])
    named = [bool(axis.get_xlabel()) for axis in grid.flat]
    assert named == [False, False, False, False, True, True]
    assert [bool(axis.get_ylabel()) for axis in grid.flat] == [True, False, True, True, False, True]


def test_a_row_without_panels_takes_no_height():
    with plots.at_width("column"):
        figure, grid = plots.panels(2, 3, 2.0)
        grid[0, 2].remove()
        plots.name_axes(grid, "x [1]", "y [1]")
        grid[0, 0].plot([1], [1], label="a method")
        plots.legend_below(figure)
    assert 6 < figure.get_figheight() < 6.5
    figure.draw_without_rendering()
    heights = [axis.get_position().height for axis in figure.axes]
    assert max(heights) < 1.1 * min(heights)


def test_a_panel_says_pairs_and_seeds_that_are_usable():
    _, grid = plain()
    assert grid[0, 0].get_title() == "a panel\nn = 512, 2 seeds"
    plots.entitle(grid[0, 0], "", ROWS.with_columns(pairs=pl.Series([1, 2, 3])))
    assert grid[0, 0].get_title() == "2 seeds"


def test_bars_stand_at_their_estimates():
    figure, grid = plots.panels(1, 1)
    arms = {name: (plots.DPO, [Interval(at, at - 1, at + 2, 16) for at in (3, 5)]) for name in ("one", "other")}
    plots.bars(grid[0, 0], ["left", "right"], arms)
    assert [bar.get_height() for bar in grid[0, 0].patches] == [3, 5, 3, 5]
    assert [each.get_text() for each in grid[0, 0].texts] == ["3", "5", "3", "5"]
    ends = [segment[:, 1].tolist() for lines in grid[0, 0].collections for segment in lines.get_segments()]
    assert ends == [[2, 5], [4, 7], [2, 5], [4, 7]]
    assert not overlaps(figure)


def test_points_that_are_close_are_named_apart():
    figure, grid = plots.panels(1, 1)
    points = {str(number): (1 + number / 1000, 1.0) for number in range(4)}
    grid[0, 0].errorbar(*zip(*points.values(), strict=True), yerr=0.03, fmt="o")
    grid[0, 0].set_xlim(0.5, 1.5)
    plots.name_points(grid[0, 0], points)
    assert not overlaps(figure)
    (lines,) = grid[0, 0].collections
    bars = [grid[0, 0].transData.transform(segment) for segment in lines.get_segments()]
    for name in (each.get_window_extent() for each in grid[0, 0].texts):
        assert all(name.x1 < low[0] or high[0] < name.x0 or name.y0 > high[1] or name.y1 < low[1] for low, high in bars)


def test_files_have_the_formats_and_the_width(tmp_path):
    with plots.at_width("column"):
        figure, _ = plain(1, 1)
    paths = plots.save(figure, tmp_path, "one", ("svg", "png"))
    assert [path.name for path in paths] == ["one.svg", "one.png"]
    with Image.open(paths[1]) as picture:
        assert picture.width == 3.25 * 200
    assert not plt.fignum_exists(figure.number)
