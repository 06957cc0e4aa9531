"""Figures that answer a reader: what a point is, with or without seeds, by which estimator.

A chart is a Vega-Lite specification with its data inside, drawn in the reader's browser by Vega's
own scripts, which the package vl-convert-python brings along. Its values are those of the figure's
file, digit by digit. Its colours follow the page, light or dark; papers take the PDF.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pandas import DataFrame, Series
from pandas.api.types import is_numeric_dtype

from rectify.analysis.packaged import packaged

Spec = dict[str, Any]
"""A Vega-Lite specification, or a part of one: JSON, whose keys that language defines."""

INK, SOFT, LINE = "var(--ink)", "var(--soft)", "var(--line)"
HEIGHT = 280
NAMED = {"labelColor": INK, "titleColor": INK, "labelFontSize": 12, "titleFontSize": 12}
LOOK = {
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        **NAMED,
        "titleFontWeight": "normal",
        "gridColor": LINE,
        "domainColor": SOFT,
        "tickColor": SOFT,
    },
    "legend": {**NAMED, "titleFontWeight": "normal", "labelLimit": 0, "orient": "top"},
    "title": {"color": INK, "fontSize": 12, "fontWeight": "normal"},
}


class Shown(NamedTuple):
    """What a chart is made of."""

    values: DataFrame
    """Of the figure, as its file has them."""
    runs: DataFrame
    """Settings of the runs by name: `rectify.analysis.collect.SETTINGS`."""
    estimator: str
    """Of GSNR, that the figure shows."""


@functools.cache
def library() -> str:
    """Return the scripts that draw charts: Vega, Vega-Lite, and what puts them into a page.

    They are one text without a ``</script>``, the same for each version of the package.
    """
    import vl_convert

    return f"{vl_convert.javascript_bundle()}\n{packaged('charts.js')}"


def chart(frame: DataFrame, layers: Sequence[Spec], **parts: object) -> Spec:
    """Return a chart as wide as its place.

    Args:
        frame: Its values.
        layers: What is drawn, from the back to the front.
        parts: Anything else that Vega-Lite knows.
    """
    return {
        "data": data(frame),
        "width": "container",
        "height": HEIGHT,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "background": "transparent",
        "layer": list(layers),
        "config": LOOK,
        **parts,
    }


def data(frame: DataFrame) -> Spec:
    """Return values as they are in a result table's file."""
    text = frame.to_csv(index=False, float_format="%.9g", lineterminator="\n")
    numbers = {name: "number" for name in frame if is_numeric_dtype(frame[name])}
    return {"values": text, "format": {"type": "csv", "parse": numbers}}


def select(
    name: str, options: Sequence[str], chosen: str, label: str, texts: Sequence[str]
) -> Spec:
    """Return a parameter that a reader sets by a list."""
    bind = {"input": "select", "options": [*options], "labels": [*texts], "name": f"{label} "}
    return {"name": name, "value": chosen, "bind": bind}


def tick(name: str, label: str) -> Spec:
    """Return a parameter that a reader switches off and on."""
    return {"name": name, "value": True, "bind": {"input": "checkbox", "name": f"{label} "}}


def measured(field: str, title: str | None, **parts: object) -> Spec:
    """Return a channel of numbers on an axis that need not begin at zero."""
    scale = {"zero": False, **parts.pop("scale", {})}
    return {"field": field, "type": "quantitative", "title": title, "scale": scale, **parts}


def hover(fields: Mapping[str, str], formats: Mapping[str, str] | None = None) -> list[Spec]:
    """Return what is shown of a point below the pointer: titles by field."""
    forms = formats or {}
    return [
        {
            "field": field,
            "title": title,
            **({"type": "quantitative", "format": forms[field]} if field in forms else {}),
        }
        for field, title in fields.items()
    ]


def looked_up(curves: DataFrame, key: str) -> Spec:
    """Return a transform that adds label and page of a curve, by the frame's index, ``key``.

    So they are in the page once, and not in each row.
    """
    fields = [name for name in ("label", "page") if name in curves]
    rows = curves[fields].rename_axis(key).reset_index().to_dict("records")
    return {"lookup": key, "from": {"data": {"values": rows}, "key": key, "fields": fields}}


def written(text: str, shade: str, values: Series) -> Spec:
    """Return a layer that writes texts into the cells of a heat map, in a colour that shows.

    Args:
        text: Column of the texts.
        shade: Column of the values that give the cells their colours.
        values: Those values.
    """
    middle = float(values.min() + values.max()) / 2
    bright = {"test": f"datum['{shade}'] > {middle:.9g}", "value": "#000"}
    colour = {"condition": bright, "value": "#fff"}
    return {"mark": {"type": "text"}, "encoding": {"text": {"field": text}, "color": colour}}


def seeds_and_means(
    *, keys: Sequence[str], numbers: Sequence[str], encoding: Spec, before: Sequence[Spec] = (),
    after: Sequence[Spec] = (), shown: Sequence[Spec] = (), further: Spec | None = None,
) -> list[Spec]:  # fmt: skip
    """Return the layers of curves: a thin line for each seed, a thick one through the means.

    A seed's line is there while the parameter ``seeds`` is on.

    Args:
        keys: Columns that tell the curves and their epochs apart.
        numbers: Columns whose means over seeds are drawn.
        encoding: Channels of all layers; a curve goes from epoch to epoch.
        before: Transforms ahead of the means.
        after: Transforms of the values, and of the means.
        shown: Below the pointer, of a point of the means.
        further: Channels of those points only.
    """
    mean = {
        "aggregate": [
            *({"op": "mean", "field": name, "as": name} for name in numbers),
            {"op": "count", "as": "count"},
        ],
        "groupby": [*keys],
    }
    means = [*before, mean, *after]
    order = {"field": "epoch", "type": "quantitative"}
    return [
        {
            "transform": [*before, *after],  # axes stay as they are without them
            "mark": {"type": "line", "strokeWidth": {"expr": "seeds ? 0.8 : 0"}, "opacity": 0.5},
            "encoding": {**encoding, "detail": {"field": "seed"}, "order": order},
        },
        {
            "transform": means,
            "mark": {"type": "line", "strokeWidth": 2.4},
            "encoding": {**encoding, "order": order},
        },
        {
            "transform": means,
            "mark": {"type": "point", "filled": True, "size": 45, "opacity": 1},
            "encoding": {
                **{name: channel for name, channel in encoding.items() if name != "strokeDash"},
                "tooltip": [*shown],
                **(further or {}),
            },
        },
    ]


def heat_map(
    frame: DataFrame, across: Spec, up: Spec, colour: Spec, shown: Sequence[Spec],
    step: int, **parts: object,
) -> Spec:  # fmt: skip
    """Return a heat map whose cells name their values below the pointer.

    Args:
        frame: A row for each cell.
        across: Channel of the columns.
        up: Channel of the rows.
        colour: Channel of the values.
        shown: Below the pointer.
        step: Height of a row, in pixels.
        parts: Anything else: see `chart`; ``text`` is a layer above the cells.
    """
    shades = {"type": "quantitative", **colour}
    shades["scale"] = {"scheme": "viridis", "zero": False, **colour.get("scale", {})}
    cells = {
        "mark": {"type": "rect"},
        "encoding": {"x": across, "y": up, "color": shades, "tooltip": [*shown]},
    }
    text = parts.pop("text", None)
    written = [{**text, "encoding": {"x": across, "y": up, **text["encoding"]}}] if text else []
    height = step * frame[up["field"]].nunique()
    return chart(frame, [cells, *written], height=height, **parts)
