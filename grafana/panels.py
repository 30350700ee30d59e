"""What the panels of all dashboards share: their sizes, units, colours, legends, and how a question is written.

Every panel has a description, since whoever looks at a graph at night did not make it. Colours say the same thing
everywhere: green is well, orange wants a look, red wants somebody.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from grafana_foundation_sdk.builders import bargauge, dashboard, heatmap, piechart, prometheus, stat, timeseries
from grafana_foundation_sdk.builders import common as looks
from grafana_foundation_sdk.models import common, units
from grafana_foundation_sdk.models import dashboard as words
from grafana_foundation_sdk.models import heatmap as heat
from grafana_foundation_sdk.models import prometheus as modes

SOURCE: Final = words.DataSourceRef(type_val="prometheus", uid="${datasource}")

COLUMNS: Final = 24
"""Of Grafana's grid."""

ROW_HEIGHT: Final = 8
STAT_HEIGHT: Final = 4

USD: Final = "currencyUSD"
USD_AN_HOUR: Final = "suffix:$/h"
PER_SECOND: Final = units.RequestsPerSecond
SECONDS: Final = units.Seconds
SHARE: Final = units.PercentUnit
COUNT: Final = units.Short
BYTES: Final = units.BytesIEC

GOOD, LOOK, BAD, PLAIN = "green", "orange", "red", "blue"

Panel = TypeVar("Panel", timeseries.Panel, stat.Panel, bargauge.Panel, heatmap.Panel, piechart.Panel)


@dataclass(frozen=True)
class Ask:
    """A question and what its series are called; `{{label}}` stands for a label's value."""

    expr: str
    legend: str = ""
    instant: bool = False
    exemplars: bool = False
    as_heatmap: bool = False


def grown(metric: str, by: str = "", window: str = "$__range") -> str:
    """How much a counter has grown; what is new counts in full, if its process is new or was asked before it began.

    `increase()` alone does not see what a series begins with: much of what a short-lived pod spends.
    """
    known = f"(process_start_time_seconds offset {window} or process_start_time_seconds > time() - {_seconds(window)})"
    new = f"(({metric} unless {metric} offset {window}) and on (job, instance) {known})"
    return f"sum{f' by ({by})' if by else ''} ({new} or increase({metric}[{window}]))"


def rate(metric: str, by: str = "", window: str = "$__rate_interval") -> str:
    """How fast a counter grows, by the second."""
    return f"sum{f' by ({by})' if by else ''} (rate({metric}[{window}]))"


def quantile(share: float, metric: str, by: str = "") -> str:
    """What a share of the observations of a histogram stays below."""
    return f"histogram_quantile({share}, {rate(metric, f'le, {by}' if by else 'le')})"


def _seconds(window: str) -> str:
    """A window as a number of seconds; Grafana replaces its own variables."""
    units_s = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
    return "$__range_s" if window == "$__range" else str(int(window[:-1]) * units_s[window[-1]])


def steps(*upwards: tuple[float | None, str]) -> dashboard.ThresholdsConfig:
    """Colours from a value upwards; the first has no value."""
    colours = [words.Threshold(value, colour) for value, colour in upwards]
    return dashboard.ThresholdsConfig().mode(words.ThresholdsMode.ABSOLUTE).steps(colours)


def over_time(
    title: str,
    description: str,
    unit: str,
    asks: Sequence[Ask],
    *,
    width: int = 12,
    stacked: bool = False,
    thresholds: dashboard.ThresholdsConfig | None = None,
) -> timeseries.Panel:
    """Lines, or what adds up."""
    panel = (
        _asked(timeseries.Panel(), title, description, asks, width, ROW_HEIGHT)
        .unit(unit)
        .min(0)
        .line_width(1)
        .fill_opacity(30 if stacked else 8)
        .show_points(common.VisibilityMode.NEVER)
        .legend(
            looks.VizLegendOptions()
            .display_mode(common.LegendDisplayMode.TABLE)
            .placement(common.LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs(["mean", "max", "lastNotNull"])
        )
        .tooltip(looks.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.DESCENDING))
    )
    if stacked:
        panel = panel.stacking(looks.StackingConfig().mode(common.StackingMode.NORMAL))
    if thresholds is not None:
        lines = looks.GraphThresholdsStyleConfig().mode(common.GraphThresholdsStyleMode.DASHED)
        panel = panel.thresholds(thresholds).thresholds_style(lines)
    return panel


def figure(
    title: str,
    description: str,
    unit: str,
    ask: Ask,
    *,
    width: int = 4,
    thresholds: dashboard.ThresholdsConfig | None = None,
    decimals: int | None = None,
    mappings: Sequence[words.ValueMapping] = (),
) -> stat.Panel:
    """One number (or a few, by the legend), in a colour that means something."""
    panel = (
        _asked(stat.Panel(), title, description, [ask], width, STAT_HEIGHT)
        .unit(unit)
        .color_mode(common.BigValueColorMode.VALUE)
        .graph_mode(common.BigValueGraphMode.NONE if ask.instant else common.BigValueGraphMode.AREA)
        .reduce_options(looks.ReduceDataOptions().calcs(["lastNotNull"]))
        .thresholds(thresholds or steps((None, PLAIN)))
        .mappings(list(mappings))
    )
    return panel if decimals is None else panel.decimals(decimals)


def ranked(
    title: str,
    description: str,
    unit: str,
    ask: Ask,
    *,
    width: int = 12,
    thresholds: dashboard.ThresholdsConfig | None = None,
    largest: float | None = None,
) -> bargauge.Panel:
    """Bars, the longest on top; `largest` is where one ends that is full."""
    panel = (
        _asked(bargauge.Panel(), title, description, [ask], width, ROW_HEIGHT)
        .unit(unit)
        .min(0)
        .orientation(common.VizOrientation.HORIZONTAL)
        .display_mode(common.BarGaugeDisplayMode.BASIC)
        .reduce_options(looks.ReduceDataOptions().calcs(["lastNotNull"]))
        .thresholds(thresholds or steps((None, PLAIN)))
    )
    return panel if largest is None else panel.max(largest)


def shares(title: str, description: str, unit: str, ask: Ask, *, width: int = 12) -> piechart.Panel:
    """What the whole is made of."""
    return (
        _asked(piechart.Panel(), title, description, [ask], width, ROW_HEIGHT)
        .unit(unit)
        .reduce_options(looks.ReduceDataOptions().calcs(["lastNotNull"]))
        .legend(
            piechart.PieChartLegendOptions()
            .display_mode(common.LegendDisplayMode.TABLE)
            .placement(common.LegendPlacement.RIGHT)
            .show_legend(True)
        )
    )


def density(title: str, description: str, unit: str, metric: str, *, width: int = 12) -> heatmap.Panel:
    """Where the observations of a histogram lie, and how that changes."""
    ask = Ask(rate(metric, "le"), "{{le}}", as_heatmap=True)
    axis = heatmap.YAxisConfig().unit(unit)
    colours = heatmap.HeatmapColorOptions().mode(heat.HeatmapColorMode.SCHEME).scheme("Oranges").steps(64)
    return _asked(heatmap.Panel(), title, description, [ask], width, ROW_HEIGHT).y_axis(axis).color(colours)


def _asked(panel: Panel, title: str, description: str, asks: Sequence[Ask], width: int, height: int) -> Panel:
    panel = panel.title(title).description(description).datasource(SOURCE).span(width).height(height)
    for letter, ask in zip("ABCDEFGH", asks, strict=False):
        query = prometheus.Dataquery().ref_id(letter).expr(ask.expr).datasource(SOURCE).legend_format(ask.legend)
        query = query.instant() if ask.instant else query.range()
        if ask.exemplars:
            query = query.exemplar(True)
        if ask.as_heatmap:
            query = query.format(modes.PromQueryFormat.HEATMAP)
        panel = panel.with_target(query)
    return panel


def board(uid: str, title: str, description: str, since: str) -> dashboard.Dashboard:
    """An empty dashboard with what all have: its source, the links, and how it is refreshed."""
    page = dashboard.DashboardLink("Sessions and budgets").type(words.DashboardLinkType.LINK)
    others = dashboard.DashboardLink("TokenGate").type(words.DashboardLinkType.DASHBOARDS)
    return (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags(["tokengate"])
        .editable()
        .tooltip(words.DashboardCursorSync.CROSSHAIR)
        .time(since, "now")
        .timezone("browser")
        .refresh("30s")
        .link(
            page.url("${gate}/dashboard")
            .icon("external link")
            .tooltip("The gate's own page: single sessions, their budgets, freezes")
            .target_blank(True)
        )
        .link(others.tags(["tokengate"]).as_dropdown(True).include_vars(True).keep_time(True))
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .with_variable(
            dashboard.TextBoxVariable("gate")
            .label("The gate's page")
            .default_value("http://localhost:8000")
            .current(words.VariableOption(text="http://localhost:8000", value="http://localhost:8000"))
        )
    )


def choice(name: str, label: str, query: str) -> dashboard.QueryVariable:
    """A variable of which several or all values may be chosen, of what Prometheus knows now."""
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query({"query": query, "qryType": 1, "refId": "PrometheusVariableQueryEditor-VariableQuery"})
        .refresh(words.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(words.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(words.VariableOption(text=["All"], value=["$__all"]))
    )


def yes_or_no(when_one: tuple[str, str], when_zero: tuple[str, str]) -> list[words.ValueMapping]:
    """Words and colours for 1 and 0."""
    found: dict[str, words.ValueMappingResult] = {}
    for value, (text, colour) in (("1", when_one), ("0", when_zero)):
        found[value] = words.ValueMappingResult(text=text, color=colour)
    return [words.ValueMap(options=found)]
