"""Queries in PromQL."""

from dataclasses import dataclass
from typing import Literal

from dashboards.model import Json


@dataclass(frozen=True, slots=True)
class PromQuery:
    """One query.

    Attributes:
        expr: PromQL; `$__rate_interval` is Grafana's, from the scrape interval.
        legend: of each series; `{{label}}` is filled in.
        shape: `heatmap` for buckets, `table` for rows of labels.
    """

    expr: str
    legend: str
    shape: Literal["time_series", "heatmap", "table"] = "time_series"

    def target(self) -> Json:
        """As Grafana's Prometheus data source takes it."""
        is_table = self.shape == "table"
        return {
            "expr": self.expr,
            "legendFormat": self.legend,
            "format": self.shape,
            "instant": is_table,
            "range": not is_table,
            "editorMode": "code",
        }


def quantiles(histogram: str, selector: str, by: str = "") -> list[PromQuery]:
    """p50, p95 and p99 of a histogram's rate; `by`: one more label to keep."""
    labels = f"le, {by}" if by else "le"
    rate = f"sum by ({labels}) (rate({histogram}_bucket{{{selector}}}[$__rate_interval]))"
    legend = f"{{{{{by}}}}} " if by else ""
    return [
        PromQuery(f"histogram_quantile({q}, {rate})", f"{legend}p{round(q * 100)}")
        for q in (0.5, 0.95, 0.99)
    ]
