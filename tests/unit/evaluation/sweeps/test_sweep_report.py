"""The table, the plot and the words of constructed rows."""

from __future__ import annotations

import csv

import pytest

from megatron_dream.errors import ConfigError
from megatron_dream.evaluation.sweeps import plot as plots
from megatron_dream.evaluation.sweeps.plot import plot_rows
from megatron_dream.evaluation.sweeps.spec import Names, Plot
from megatron_dream.evaluation.sweeps.table import cell_text, markdown_table, write_csv
from megatron_dream.evaluation.sweeps.text import difference, estimate, listed, number, setting


def row(temperature, canvas, value, arm="m", **more):
    bounds = {"pass@1": value, "pass@1_low": value - 0.1, "pass@1_high": value + 0.1}
    return {"arm": arm, "temperature": temperature, "canvas": canvas, **bounds, **more}


ROWS = [row(t, c, 0.5 + t / 10 - c / 100) for c in (8, 16) for t in (1.0, 0.1, 0.5)]


def test_csv_has_every_column_and_only_the_readers(tmp_path):
    write_csv([*ROWS, {"arm": "x, y", "extra": None, "_tasks": "{}"}], tmp_path / "a.csv")
    with open(tmp_path / "a.csv", newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert len(lines) == 7 and "_tasks" not in lines[0] and "extra" in lines[0]
    assert float(lines[0]["pass@1"]) == ROWS[0]["pass@1"] and lines[6]["arm"] == "x, y"
    assert lines[6]["temperature"] == ""


def test_markdown_table_has_intervals_and_no_empty_columns():
    text = markdown_table(ROWS[:1], ["temperature", "nothing", "pass@1"])
    assert text.splitlines()[0] == "| temperature | pass@1 |"
    assert "| 1 | 0.52 (0.42 to 0.62) |" in text
    assert cell_text({"a": "x|y"}, "a") == "x\\|y" and cell_text({}, "a") == "-"


class Axes:
    """What matplotlib was told to draw."""

    def __init__(self, axes):
        self.lines = {line.get_label(): line for line in axes.get_lines()}
        self.bands = len(axes.collections) + len(axes.patches)


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """Plots rows to a file and gives back the figure's panels."""
    kept = []
    save = plots.save_figure

    def keep(figure, path):
        kept.append([Axes(axes) for axes in figure.axes])
        kept.append(figure.legends)
        save(figure, path)

    monkeypatch.setattr(plots, "save_figure", keep)

    def draw(rows, plot):
        plot_rows(rows, plot, "A title", tmp_path / "a.png")
        assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
        return kept[-2]

    return draw


def test_panels_series_and_bands(drawn):
    axes = drawn(ROWS, Plot("temperature", Names(["pass@1"]), series=None, panels="canvas"))
    assert len(axes) == 2
    for panel, canvas in zip(axes, (8, 16), strict=True):
        (line,) = panel.lines.values()
        assert list(line.get_xdata()) == [0.1, 0.5, 1.0]  # in order
        assert list(line.get_ydata()) == pytest.approx(
            [0.5 + t / 10 - canvas / 100 for t in (0.1, 0.5, 1.0)]
        )
        assert panel.bands == 1
    (axes,) = drawn(ROWS, Plot("temperature", Names(["pass@1"]), series="canvas"))
    assert list(axes.lines) == ["canvas 8", "canvas 16"] and axes.bands == 2


def test_a_baseline_without_the_swept_setting_is_a_level(drawn):
    rows = [*ROWS[:3], row(None, None, 0.9, arm="AR")]
    (axes,) = drawn(rows, Plot("temperature", Names(["pass@1"]), series="canvas"))
    assert set(axes.lines) == {"canvas 8", "AR"}
    assert list(axes.lines["AR"].get_ydata()) == [0.9, 0.9]


def test_several_settings_at_one_x_are_dots_and_a_mean(drawn):
    (axes,) = drawn(ROWS, Plot("temperature", Names(["pass@1"])))
    (line,) = axes.lines.values()
    assert "mean over the dots" in line.get_label()
    assert list(line.get_ydata()) == pytest.approx([0.39, 0.43, 0.48])


def test_text_along_x_and_rows_without_y(drawn):
    rows = [row(None, 8, 0.3, cache="none"), row(None, 8, 0.2, cache="prefix"),
            {"arm": "m", "cache": "none", "pass@1": None}]  # fmt: skip
    (axes,) = drawn(rows, Plot("cache", Names(["pass@1"])))
    (line,) = axes.lines.values()
    assert list(line.get_xdata()) == [0, 1] and list(line.get_ydata()) == [0.3, 0.2]


def test_lines_differ_by_colour_and_marker_also_beyond_the_palette(drawn):
    rows = [row(t, n, 0.5) for n in range(20) for t in (0.1, 1.0)]
    (axes,) = drawn(rows, Plot("temperature", Names(["pass@1"]), series="canvas"))
    looks = {(line.get_color(), line.get_marker()) for line in axes.lines.values()}
    assert len(looks) == 20


def test_settings_without_an_order_are_not_joined(drawn):
    (axes,) = drawn(ROWS, Plot("temperature", Names(["pass@1"]), series="canvas", dots=True))
    assert {line.get_linestyle() for line in axes.lines.values()} == {"None"}
    assert axes.bands == len(ROWS)  # a bar each


def test_a_column_that_is_not_there_is_told(drawn):
    with pytest.raises(
        ConfigError, match=r"series 'canvs' is no column; the nearest one is canvas"
    ):
        drawn(ROWS, Plot("temperature", Names(["pass@1"]), series="canvs"))


def test_words_of_figures():
    found = {"d": 0.031, "d_low": 0.01, "d_high": 0.052}
    assert difference(found, "d", percent=True) == "3.1 points above (1 to 5.2)"
    lower = {"d": -0.031, "d_low": -0.052, "d_high": -0.01}
    assert difference(lower, "d", percent=True) == "3.1 points below (1 to 5.2)"
    none = {"d": 0.031, "d_low": 0.0, "d_high": 0.06}
    assert difference(none, "d", percent=True).startswith("no difference shown (+3.1 points")
    assert difference({}, "d") == "not compared"
    assert "without an interval" in difference({"d": 1.0, "d_low": None}, "d")
    assert estimate(found, "d", percent=True) == "3.1% (1.0% to 5.2%)"
    assert estimate({"d": 2.0}, "d") == "2"
    assert [number(v) for v in (0, 0.5, 1234.0, 3.2e15, 2e-9)] == [
        "0", "0.5", "1,234", "3.20e+15", "2.00e-09",
    ]  # fmt: skip
    assert listed(["a"]) == "a" and listed(["a", "b", "c"]) == "a, b and c"
    assert setting({"a_b": 0.5, "c": None, "d": "x"}, ["a_b", "c", "d"]) == "a b 0.5, d x"
