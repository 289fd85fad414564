"""The explorer of the report: settings as controls, and for the chosen one which method is better, from how many pairs.

Its numbers come from ``explorer_points``, its charts from ``explorer_charts``. The fragment needs nothing else: it has
the data as JSON, and one script that is Vega, Vega-Lite, Vega-Embed and ``explorer.js``.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from experiments.kit.findings import EQUAL_TIMES
from experiments.kit.intervals import Interval
from experiments.kit.points import Records
from experiments.report.explorer_points import AXES, Setting, settings

HERE = Path(__file__).parent


def explorer(records: Mapping[str, Records]) -> Markup:
    """The explorer as HTML, of the records of questions by their keys; empty where there are none that it knows."""
    found = settings(records)
    if not found:
        return Markup("")
    import vl_convert  # this and altair take a second to import, and every command would

    from experiments.report.explorer_charts import VEGA_LITE, charts

    own = (HERE / "explorer.js").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    text = environment.get_template("explorer.html.jinja").render(
        data=content(found),
        charts=charts(),
        script=Markup(vl_convert.javascript_bundle(own, VEGA_LITE)),
        factor=f"{EQUAL_TIMES:g}",
    )
    return Markup(text)


def content(found: Sequence[Setting]) -> dict[str, Any]:
    """What the page's script reads.

    ``controls``: the axes with several values, with their texts. ``fixed``: text of the others. ``parts``: texts and
    columns over the number of pairs, each once, as many settings share them. ``settings``: places of their values in
    the controls, and of their texts and columns in the parts.
    """
    values = {axis: _ordered([setting.at[axis] for setting in found]) for axis in AXES}
    controls = [axis for axis in AXES if len(values[axis]) > 1]
    parts: dict[str, int] = {}
    shown = []
    for setting in found:
        columns = {
            "answer": setting.answer,
            "pairs": [point.pairs for point in setting.points],
            "seeds": [point.ratio.seeds for point in setting.points],
            "better": [point.better for point in setting.points],
            "DPO": [_curve(point.dpo, point.predicted[0]) for point in setting.points],
            "RLHF": [_curve(point.rlhf, point.predicted[1]) for point in setting.points],
            "ratio": [_curve(point.ratio, point.predicted[2]) for point in setting.points],
        }
        at = [None if setting.at[axis] is None else values[axis].index(setting.at[axis]) for axis in controls]
        places = {name: parts.setdefault(json.dumps(column), len(parts)) for name, column in columns.items()}
        shown.append({"at": at} | places)
    return {
        "controls": [
            {"name": axis, "label": AXES[axis], "values": [_text(value) for value in values[axis]]} for axis in controls
        ],
        "fixed": "; ".join(f"{AXES[axis]}: {_text(one)}" for axis, (one, *more) in values.items() if not more),
        "parts": [json.loads(part) for part in parts],
        "settings": shown,
    }


def _ordered(values: list) -> list:
    """Each value once: numbers ascending, texts as they come."""
    once = list(dict.fromkeys(value for value in values if value is not None))
    return once if isinstance(once[0], str) else sorted(once)


def _text(value: str | float) -> str:
    return value.replace("_", " ") if isinstance(value, str) else f"{value:g}"


def _curve(interval: Interval, predicted: float) -> list[float | None]:
    """Estimate, low, high and prediction to the three digits that the page prints; None where there is no number."""
    numbers = interval.estimate, interval.low, interval.high, predicted
    return [float(f"{x:.3g}") if math.isfinite(x) else None for x in numbers]
