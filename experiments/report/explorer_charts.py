"""The explorer's two charts, as Vega-Lite over a data set ``curves``, which the page's script fills.

A row of ``curves`` is one number of pairs on one curve: pairs, arm (``DPO``, ``RLHF`` or their ``ratio``), kind
(``measured`` or ``predicted``), estimate and, where it is measured, low and high. The parameter ``chosen`` is the
number of pairs that is pointed out.
"""

from typing import Any

import altair as alt

from experiments.kit.plots import DPO, RLHF, THIRD

LOOKS = {"DPO": (DPO, "square"), "RLHF": (RLHF, "circle"), "ratio": (THIRD, "diamond")}
KINDS = {"measured": [1, 0], "predicted": [5, 4]}
VEGA_LITE = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])  # whose scripts draw what altair writes
HEIGHT = 300  # pixels
FONT = "system-ui, sans-serif"
INK = "currentColor"  # the page's, whether it is light or dark


def charts() -> dict[str, dict[str, Any]]:
    """Name and specification of each chart: the regrets of both methods, and their ratio."""
    equal = alt.Chart().mark_rule(color=INK, opacity=0.6).encode(y=alt.datum(1, type="quantitative"))
    return {
        "regrets": _finished(_curves(["DPO", "RLHF"], "regret KL(π‖π*) [nats]")),
        "ratio": _finished([equal, *_curves(["ratio"], "regret of DPO / regret of RLHF")]),
    }


def _curves(arms: list[str], name: str) -> list[alt.Chart]:
    """Layers: the number of pairs that is pointed out; curves, intervals and points of some arms."""
    colours, shapes = zip(*(LOOKS[arm] for arm in arms), strict=True)
    legend = alt.Legend(title=None) if len(arms) > 1 else None
    shown = alt.Chart().transform_filter(alt.FieldOneOfPredicate("arm", arms))
    shown = shown.encode(
        x=alt.X("pairs:Q", title="labelled pairs n", scale=alt.Scale(type="log", base=2, nice=False, padding=14))
    )
    one = f"datum.pairs == chosen && datum.arm == '{arms[0]}' && datum.kind == 'measured'"
    pointed = shown.mark_rule(color=INK, opacity=0.15, strokeWidth=12).transform_filter(one)
    shown = shown.encode(color=alt.Color("arm:N", scale=alt.Scale(domain=arms, range=colours), legend=legend))
    y = alt.Y("estimate:Q", title=name, scale=alt.Scale(type="log"))
    dashes = alt.Scale(domain=list(KINDS), range=list(KINDS.values()))
    lines = alt.Legend(title=None, orient="bottom", symbolStrokeColor=INK, symbolStrokeWidth=2, symbolSize=500)
    kinds = alt.StrokeDash("kind:N", scale=dashes, legend=lines)
    measured = shown.transform_filter("datum.kind == 'measured'")
    # As in the figures, an interval that reaches 0 has no lower end on a logarithmic axis. None at all is a point.
    ends = measured.transform_calculate(
        bottom="isValid(datum.low) ? max(datum.low, datum.estimate / 100) : datum.estimate",
        top="isValid(datum.high) ? datum.high : datum.estimate",
    )
    shape = alt.Shape("arm:N", scale=alt.Scale(domain=arms, range=shapes), legend=legend)
    numbers = [alt.Tooltip(each, type="quantitative", format=".3") for each in ("estimate", "low", "high")]
    told = [alt.Tooltip("pairs:Q", format=","), alt.Tooltip("arm:N"), *numbers]
    return [
        pointed,
        shown.mark_line(strokeWidth=2).encode(y=y, strokeDash=kinds),
        ends.mark_rule(strokeWidth=2).encode(y="bottom:Q", y2="top:Q"),
        measured.mark_point(filled=True, size=70, opacity=1).encode(y=y, shape=shape, tooltip=told),
    ]


def _finished(layers: list[alt.Chart]) -> dict[str, Any]:
    fitted = alt.AutoSizeParams(type="fit", contains="padding")
    inks = dict.fromkeys(("labelColor", "titleColor", "domainColor", "tickColor", "gridColor"), INK)
    return (
        alt.layer(*layers, data=alt.NamedData("curves"))
        .add_params(alt.param(name="chosen", value=0))
        .properties(width="container", height=HEIGHT, background="transparent", autosize=fitted)
        .configure(font=FONT)
        .configure_view(stroke=None)
        .configure_axis(**inks, gridOpacity=0.15, labelFontSize=12, titleFontSize=13, titleFontWeight="normal")
        .configure_axisX(format=",", labelOverlap="greedy")
        .configure_legend(orient="top", columnPadding=18, labelColor=INK, labelFontSize=12)
        .to_dict()
    )
