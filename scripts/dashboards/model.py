"""Dashboards, rows, panels and variables, and their JSON as Grafana reads it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Json = dict[str, Any]

_SCHEMA_VERSION = 39  # Grafana 10.4 and later; newer ones migrate it when they load it
_COLUMNS = 24
_GREEN, _YELLOW, _RED = "green", "yellow", "red"


class Query(Protocol):
    """One query of a panel."""

    def target(self) -> Json:
        """The query as an entry of a panel's `targets`, without `refId`."""


@dataclass(frozen=True, slots=True)
class Limits:
    """From where on a value is drawn as a warning, and as an alarm."""

    warn: float | None
    alarm: float


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel.

    Attributes:
        title: what is shown, without the unit.
        description: what it means and what to do when it looks wrong.
        queries: asked together.
        unit: Grafana's name of it: `s`, `bytes`, `reqps`, `percentunit`, `short` …
        kind: of drawing.
        width: columns of 24.
        limits: drawn as lines; None without.
        stacked: whether series are added up.
        largest: the end of the axis; None: by the data.
    """

    title: str
    description: str
    queries: Sequence[Query]
    unit: str = "short"
    kind: Literal["timeseries", "stat", "heatmap", "table"] = "timeseries"
    width: int = 8
    height: int = 8
    limits: Limits | None = None
    stacked: bool = False
    largest: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under one heading."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True, slots=True)
class Dashboard:
    """One dashboard; `datasource` is Grafana's type of it (`prometheus`, `stackdriver`)."""

    uid: str
    title: str
    description: str
    datasource: str
    tags: Sequence[str]
    rows: Sequence[Row]
    variables: Sequence[Json] = field(default_factory=tuple)

    def to_json(self) -> Json:
        """The dashboard as Grafana imports or provisions it."""
        return {
            "annotations": {"list": []},
            "description": self.description,
            "editable": True,
            "fiscalYearStartMonth": 0,
            "graphTooltip": 1,
            "id": None,
            "links": [],
            "panels": self._panels(),
            "refresh": "30s",
            "schemaVersion": _SCHEMA_VERSION,
            "tags": list(self.tags),
            "templating": {"list": [self._datasource_variable(), *self.variables]},
            "time": {"from": "now-1h", "to": "now"},
            "timepicker": {},
            "timezone": "browser",
            "title": self.title,
            "uid": self.uid,
            "version": 1,
            "weekStart": "",
        }

    def _datasource_variable(self) -> Json:
        return {
            "name": "datasource",
            "label": "Data source",
            "type": "datasource",
            "query": self.datasource,
            "hide": 0,
            "includeAll": False,
            "multi": False,
            "refresh": 1,
            "regex": "",
            "current": {},
            "options": [],
        }

    def _panels(self) -> list[Json]:
        found: list[Json] = []
        y = 0
        for row in self.rows:
            place = {"h": 1, "w": _COLUMNS, "x": 0, "y": y}
            found.append(
                {
                    "id": len(found) + 1,
                    "type": "row",
                    "title": row.title,
                    "collapsed": False,
                    "gridPos": place,
                    "panels": [],
                }
            )
            y += 1
            x = tallest = 0
            for panel in row.panels:
                if x + panel.width > _COLUMNS:
                    x, y, tallest = 0, y + tallest, 0
                place = {"h": panel.height, "w": panel.width, "x": x, "y": y}
                found.append(self._panel(panel, len(found) + 1, place))
                x += panel.width
                tallest = max(tallest, panel.height)
            y += tallest
        return found

    def _panel(self, panel: Panel, number: int, place: Json) -> Json:
        datasource = {"type": self.datasource, "uid": "${datasource}"}
        targets = [
            {"refId": chr(ord("A") + index), "datasource": datasource, **query.target()}
            for index, query in enumerate(panel.queries)
        ]
        return {
            "id": number,
            "type": panel.kind,
            "title": panel.title,
            "description": panel.description,
            "datasource": datasource,
            "gridPos": place,
            "fieldConfig": {"defaults": _defaults(panel), "overrides": []},
            "options": _options(panel),
            "targets": targets,
        }


def query_variable(
    name: str, label: str, datasource: str, query: Json | str, *, multi: bool = True
) -> Json:
    """A variable whose values the data source tells; with `multi` all of them at first."""
    chosen = {"selected": True, "text": ["All"], "value": ["$__all"]} if multi else {}
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": {"type": datasource, "uid": "${datasource}"},
        "query": query,
        "definition": query if isinstance(query, str) else "",
        "hide": 0,
        "includeAll": multi,
        "allValue": ".*" if multi else None,
        "multi": multi,
        "refresh": 2,
        "regex": "",
        "sort": 1,
        "current": chosen,
        "options": [],
    }


def text_variable(name: str, label: str, value: str = "") -> Json:
    """A variable that people type."""
    return {
        "name": name,
        "label": label,
        "type": "textbox",
        "query": value,
        "hide": 0,
        "current": {"selected": True, "text": value, "value": value},
        "options": [{"selected": True, "text": value, "value": value}],
    }


def _defaults(panel: Panel) -> Json:
    found: Json = {
        "unit": panel.unit,
        "min": 0,
        "color": {"mode": "palette-classic" if panel.kind == "timeseries" else "thresholds"},
        "thresholds": {"mode": "absolute", "steps": _steps(panel.limits)},
    }
    if panel.largest is not None:
        found["max"] = panel.largest
    if panel.kind == "timeseries":
        found["custom"] = {
            "drawStyle": "line",
            "lineWidth": 1,
            "fillOpacity": 20 if panel.stacked else 0,
            "showPoints": "never",
            "spanNulls": False,
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
            "thresholdsStyle": {"mode": "off" if panel.limits is None else "dashed"},
        }
    return found


def _steps(limits: Limits | None) -> list[Json]:
    steps: list[Json] = [{"color": _GREEN, "value": None}]
    if limits is not None:
        if limits.warn is not None:
            steps.append({"color": _YELLOW, "value": limits.warn})
        steps.append({"color": _RED, "value": limits.alarm})
    return steps


def _options(panel: Panel) -> Json:
    if panel.kind == "stat":
        return {
            "colorMode": "value",
            "graphMode": "area",
            "justifyMode": "auto",
            "orientation": "auto",
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "textMode": "auto",
        }
    if panel.kind == "heatmap":
        return {
            "calculate": False,
            "cellGap": 1,
            "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64, "exponent": 0.5},
            "legend": {"show": True},
            "rowsFrame": {"layout": "auto"},
            "tooltip": {"mode": "single", "yHistogram": True},
            "yAxis": {"axisPlacement": "left", "unit": panel.unit},
        }
    if panel.kind == "table":
        return {"showHeader": True, "cellHeight": "sm", "footer": {"show": False}}
    return {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
