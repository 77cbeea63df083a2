"""The dashboard of `dyno serve` on Cloud Run, for Google Cloud Monitoring.

Metrics are Cloud Run's own (https://cloud.google.com/monitoring/api/metrics_gcp_p_z#gcp-run): the
service needs no agent, and they are there before the first request reaches our code. Queries are
those of Grafana's data source `stackdriver`
(https://grafana.com/docs/grafana/latest/datasources/google-cloud-monitoring/query-editor/).
"""

from dataclasses import dataclass

from dashboards.model import (
    Dashboard,
    Json,
    Limits,
    Panel,
    Row,
    query_variable,
    text_variable,
)

_METRICS = "run.googleapis.com/"
_RESOURCE = "cloud_run_revision"


@dataclass(frozen=True, slots=True)
class CloudQuery:
    """One metric of Cloud Run's, of the chosen service.

    Attributes:
        metric: below `run.googleapis.com/`.
        aligner: what becomes of each series within a period.
        reducer: what becomes of series over instances and revisions.
        legend: of each series.
        by: labels to keep.
        where: more conditions, as label, operator and value.
    """

    metric: str
    aligner: str
    reducer: str
    legend: str
    by: tuple[str, ...] = ()
    where: tuple[str, ...] = ()

    def target(self) -> Json:
        """As Grafana's data source for Google Cloud Monitoring takes it."""
        conditions = (
            ("metric.type", "=", _METRICS + self.metric),
            ("resource.type", "=", _RESOURCE),
            ("resource.label.service_name", "=~", "$service"),
            *((self.where,) if self.where else ()),
        )
        filters: list[str] = []
        for condition in conditions:
            filters += ["AND", *condition] if filters else condition
        return {
            "queryType": "timeSeriesList",
            "aliasBy": self.legend,
            "timeSeriesList": {
                "projectName": "$project",
                "filters": filters,
                "perSeriesAligner": self.aligner,
                "crossSeriesReducer": self.reducer,
                "alignmentPeriod": "cloud-monitoring-auto",
                "groupBys": list(self.by),
                "view": "FULL",
            },
        }


def _quantiles(metric: str, where: tuple[str, ...] = ()) -> list[CloudQuery]:
    return [
        CloudQuery(metric, "ALIGN_DELTA", f"REDUCE_PERCENTILE_{q:02d}", f"p{q}", where=where)
        for q in (50, 95, 99)
    ]


_CLASS = "metric.label.response_code_class"

_TRAFFIC = Row(
    "Traffic",
    [
        Panel(
            "Requests by class of answer",
            "5xx: the server failed, drained, or no instance could start: see the service's logs. "
            "4xx: wrong requests, or 429 because the queue was full: raise --max-instances.",
            [
                CloudQuery(
                    "request_count",
                    "ALIGN_RATE",
                    "REDUCE_SUM",
                    "{{metric.label.response_code_class}}",
                    by=(_CLASS,),
                )
            ],
            unit="reqps",
            width=12,
            stacked=True,
        ),
        Panel(
            "Server errors",
            "Requests answered with 5xx a second. Any for minutes: see the logs by request id.",
            [
                CloudQuery(
                    "request_count", "ALIGN_RATE", "REDUCE_SUM", "5xx", where=(_CLASS, "=", "5xx")
                )
            ],
            unit="reqps",
            width=12,
            limits=Limits(None, 0.1),
        ),
    ],
)

_LATENCY = Row(
    "Latency",
    [
        Panel(
            "Latency of requests",
            "How many requests took how long in the instance, without a start that they waited "
            "for. Two bands: some wait for a batch or a busy neighbour.",
            [CloudQuery("request_latencies", "ALIGN_DELTA", "REDUCE_SUM", "")],
            unit="ms",
            kind="heatmap",
            width=12,
        ),
        Panel(
            "Quantiles of answered requests",
            "p50, p95 and p99 of 2xx. p99 far above p50 is waiting: lower --concurrency, or give "
            "more instances.",
            _quantiles("request_latencies", (_CLASS, "=", "2xx")),
            unit="ms",
            width=12,
            limits=Limits(None, 1000),
        ),
    ],
)

_INSTANCES = Row(
    "Instances",
    [
        Panel(
            "Instances by state",
            "active and idle. At the service's greatest number under load: raise --max-instances. "
            "Zero is right for a service that scales to zero and has nothing to do.",
            [
                CloudQuery(
                    "container/instance_count",
                    "ALIGN_MAX",
                    "REDUCE_SUM",
                    "{{metric.label.state}}",
                    by=("metric.label.state",),
                )
            ],
            stacked=True,
        ),
        Panel(
            "Cold starts",
            "Time from an instance's start to its being ready: p50, p95, p99. Too long: a smaller "
            "image or model, startup CPU boost, or --min-instances 1.",
            _quantiles("container/startup_latencies"),
            unit="ms",
            limits=Limits(None, 30_000),
        ),
        Panel(
            "Requests at once",
            "Most requests that an instance had at a time: p50, p95, p99. At --concurrency for "
            "long: Cloud Run starts more instances; at --max-instances too, requests wait.",
            _quantiles("container/max_request_concurrencies"),
        ),
        Panel(
            "Processor",
            "Share of the allocated processor that instances use: p50, p95, p99. Near 100 %: more "
            "--cpu, or a lower --concurrency.",
            _quantiles("container/cpu/utilizations"),
            unit="percentunit",
            largest=1,
            limits=Limits(0.8, 0.95),
        ),
        Panel(
            "Memory",
            "Share of the allocated memory that instances use: p50, p95, p99. At 100 % they are "
            "killed: more --memory, or fewer replicas in one.",
            _quantiles("container/memory/utilizations"),
            unit="percentunit",
            largest=1,
            limits=Limits(0.8, 0.95),
        ),
        Panel(
            "Billable time of instances",
            "Seconds billed a second: what the service costs, over all instances. Much more than "
            "the load needs: lower --min-instances.",
            [CloudQuery("container/billable_instance_time", "ALIGN_RATE", "REDUCE_SUM", "billed")],
            unit="short",
        ),
    ],
)

CLOUD_RUN = Dashboard(
    uid="visiondyno-cloud-run",
    title="VisionDyno: inference on Cloud Run",
    description="dyno serve on Cloud Run, from Google Cloud Monitoring alone.",
    datasource="stackdriver",
    tags=("visiondyno", "google-cloud"),
    variables=(
        text_variable("project", "Project"),
        query_variable(
            "service",
            "Service",
            "stackdriver",
            {
                "selectedQueryType": "labelValues",
                "projectName": "$project",
                "selectedService": "run.googleapis.com",
                "selectedMetricType": f"{_METRICS}request_count",
                "labelKey": "resource.label.service_name",
                "selectedSLOService": "",
                "sloServices": [],
                "loading": False,
                "refId": "CloudMonitoringVariableQueryEditor-VariableQuery",
            },
        ),
    ),
    rows=(_TRAFFIC, _LATENCY, _INSTANCES),
)
