"""The dashboard of `dyno serve`, for Prometheus."""

from dashboards.model import Dashboard, Limits, Panel, Row, query_variable
from dashboards.prometheus import PromQuery, quantiles

_MODEL = 'instance=~"$instance", model=~"$model"'
_INSTANCE = 'instance=~"$instance"'
_ITEMS = f"visiondyno_inference_items_total{{{_MODEL}"
_SERVING_ONLY = "and on (instance) visiondyno_model_info"
"""dyno up exports the same names of requests and of its process."""
_STAGES = "queue|decode|preprocess|inference|postprocess"

_OVERVIEW = Row(
    "At a glance",
    [
        Panel(
            "Answered",
            "Images (and tensors) answered a second. Zero while clients send: look at Replicas and "
            "at the log of dyno serve.",
            [PromQuery(f'sum(rate({_ITEMS}, outcome="ok"}}[$__rate_interval]))', "answered")],
            unit="reqps",
            kind="stat",
            width=6,
            height=4,
        ),
        Panel(
            "Errors of the server",
            "Share of items that ended in a defect or at the time limit. Above 1 %: see Items by "
            "outcome for which, then at the log, by request id.",
            [
                PromQuery(
                    f'sum(rate({_ITEMS}, outcome=~"server_error|time_limit"}}[$__rate_interval]))'
                    f" / sum(rate({_ITEMS}}}[$__rate_interval]))",
                    "errors",
                )
            ],
            unit="percentunit",
            kind="stat",
            width=6,
            height=4,
            limits=Limits(0.01, 0.05),
        ),
        Panel(
            "p99, from receipt to answer",
            "99 of 100 items were answered within this time. Too high: Time by stage shows where "
            "it goes; a long queue wants replicas, a long inference a smaller batch or model.",
            quantiles("visiondyno_inference_seconds", f'{_MODEL}, stage="total"')[2:],
            unit="s",
            kind="stat",
            width=6,
            height=4,
            limits=Limits(0.5, 1),
        ),
        Panel(
            "Replicas ready",
            "Replicas that take work. Zero is right only for a server that scales to zero and has "
            "nothing to do.",
            [PromQuery(f'sum(visiondyno_replicas{{{_INSTANCE}, state="ready"}})', "ready")],
            kind="stat",
            width=6,
            height=4,
        ),
    ],
)

_TRAFFIC = Row(
    "Traffic",
    [
        Panel(
            "Items by outcome",
            "ok, client_error (a bad image or option), rejected (queue full: 429), time_limit "
            "(504), server_error (a defect), gone (the client hung up). Rejected: give more "
            "replicas or a longer --queue; client_error: the answers say what is wrong.",
            [PromQuery(f"sum by (outcome) (rate({_ITEMS}}}[$__rate_interval]))", "{{outcome}}")],
            unit="reqps",
            stacked=True,
        ),
        Panel(
            "HTTP answers by status",
            "Of every route. 429: the queue was full; 503: draining, or no replica could start; "
            "504: the time limit; 500: a defect, please report it with the log's traceback.",
            [
                PromQuery(
                    "sum by (status) (rate(visiondyno_http_requests_total"
                    f"{{{_INSTANCE}}}[$__rate_interval]) {_SERVING_ONLY})",
                    "{{status}}",
                )
            ],
            unit="reqps",
            stacked=True,
        ),
        Panel(
            "Connections",
            "Open connections, and those refused a second because --max-connections were open. "
            "Refusals: raise the limit, or find the client that opens so many.",
            [
                PromQuery(f"sum(visiondyno_connections{{{_INSTANCE}}})", "open"),
                PromQuery(
                    "sum(rate(visiondyno_connections_refused_total"
                    f"{{{_INSTANCE}}}[$__rate_interval]))",
                    "refused a second",
                ),
            ],
        ),
    ],
)

_LATENCY = Row(
    "Latency",
    [
        Panel(
            "Latency of items",
            "How many items took how long, from receipt to answer. Two bands: some wait for a "
            "batch, a replica's start or a busy neighbour.",
            [
                PromQuery(
                    "sum by (le) (increase(visiondyno_inference_seconds_bucket"
                    f'{{{_MODEL}, stage="total"}}[$__rate_interval]))',
                    "{{le}}",
                    shape="heatmap",
                )
            ],
            unit="s",
            kind="heatmap",
            width=12,
        ),
        Panel(
            "Quantiles, from receipt to answer",
            "p50, p95 and p99. A p99 far above the p50 is waiting, not computing.",
            quantiles("visiondyno_inference_seconds", f'{_MODEL}, stage="total"'),
            unit="s",
            width=12,
            limits=Limits(None, 1),
        ),
        *(
            Panel(
                f"Time by stage, {name}",
                "Of the parts of an item's time. queue: wait for a replica and its batch; decode: "
                "JPEG or PNG; inference: the model. A stage that grows alone names the cause.",
                [query],
                unit="s",
            )
            for name, query in zip(
                ("p50", "p95", "p99"),
                quantiles(
                    "visiondyno_inference_seconds", f'{_MODEL}, stage=~"{_STAGES}"', by="stage"
                ),
                strict=True,
            )
        ),
    ],
)

_QUEUE = Row(
    "Queue and batches",
    [
        Panel(
            "Queue against its limit",
            "Items that wait, those at replicas, and how many may wait; beyond the limit clients "
            "get a 429. Near it for minutes: more replicas, or a lower rate.",
            [
                PromQuery(f"sum(visiondyno_inference_queue_depth{{{_INSTANCE}}})", "waiting"),
                PromQuery(f"sum(visiondyno_inference_in_flight{{{_INSTANCE}}})", "at replicas"),
                PromQuery(f"sum(visiondyno_inference_queue_limit{{{_INSTANCE}}})", "limit"),
            ],
        ),
        Panel(
            "Rejected",
            "Share of items refused because the queue was full. Any for minutes: the server gets "
            "more than it can do; see the highest rate that dyno loadtest --find-rate finds.",
            [
                PromQuery(
                    f'sum(rate({_ITEMS}, outcome="rejected"}}[$__rate_interval]))'
                    f" / sum(rate({_ITEMS}}}[$__rate_interval]))",
                    "rejected",
                )
            ],
            unit="percentunit",
            limits=Limits(0.001, 0.05),
        ),
        Panel(
            "Items a batch",
            "Mean number of items that shared an inference. 1 under load: --max-batch is 1, or "
            "--batch-delay-ms too short to gather more.",
            [
                PromQuery(
                    "sum by (model) (rate(visiondyno_inference_batch_size_sum"
                    f"{{{_MODEL}}}[$__rate_interval]))"
                    " / sum by (model) (rate(visiondyno_inference_batch_size_count"
                    f"{{{_MODEL}}}[$__rate_interval]))",
                    "{{model}}",
                )
            ],
        ),
    ],
)

_REPLICAS = Row(
    "Replicas",
    [
        Panel(
            "Replicas by state",
            "Starting, ready and stopping, with the least and the most that may be. Starting for "
            "minutes: the model doesn't load; the log says why.",
            [
                PromQuery(f"sum by (state) (visiondyno_replicas{{{_INSTANCE}}})", "{{state}}"),
                PromQuery(
                    f"sum by (bound) (visiondyno_replicas_limit{{{_INSTANCE}}})", "{{bound}}"
                ),
            ],
        ),
        Panel(
            "Deaths",
            "Replicas that ended without being asked to, in an hour. Each is replaced; again and "
            "again means too little memory or a model that crashes: see the log.",
            [
                PromQuery(
                    "sum by (instance) "
                    f"(increase(visiondyno_replica_deaths_total{{{_INSTANCE}}}[1h]))",
                    "{{instance}}",
                )
            ],
            limits=Limits(1, 3),
        ),
        Panel(
            "Items by replica",
            "Work each replica does. One that does less than the others is slow or new.",
            [
                PromQuery(
                    "sum by (instance, replica) (rate(visiondyno_replica_items_total"
                    f"{{{_INSTANCE}}}[$__rate_interval]))",
                    "{{instance}} {{replica}}",
                )
            ],
            unit="reqps",
        ),
        Panel(
            "Processor by replica",
            "Busy hardware threads. Flat at --threads under load: more replicas, or a machine with "
            "more cores. The front accepts, queues and answers: near 1 it is the limit itself.",
            [
                PromQuery(
                    "sum by (instance, replica) (rate(visiondyno_replica_cpu_seconds_total"
                    f"{{{_INSTANCE}}}[$__rate_interval]))",
                    "{{instance}} {{replica}}",
                ),
                PromQuery(
                    f"rate(process_cpu_seconds_total{{{_INSTANCE}}}[$__rate_interval])"
                    f" {_SERVING_ONLY}",
                    "{{instance}} front",
                ),
            ],
        ),
        Panel(
            "Memory by replica",
            "Resident memory. It grows and never falls: a leak; report it. Near the container's "
            "limit: fewer replicas or a smaller batch.",
            [
                PromQuery(
                    "sum by (instance, replica) "
                    f"(visiondyno_replica_resident_bytes{{{_INSTANCE}}})",
                    "{{instance}} {{replica}}",
                ),
                PromQuery(
                    f"process_resident_memory_bytes{{{_INSTANCE}}} {_SERVING_ONLY}",
                    "{{instance}} front",
                ),
            ],
            unit="bytes",
        ),
        Panel(
            "GPU memory by replica",
            "In use on the replica's whole GPU, by whomever. Empty without a GPU. Near the card's "
            "memory: fewer replicas on it, or a smaller batch.",
            [
                PromQuery(
                    "max by (instance, replica) "
                    f"(visiondyno_replica_gpu_memory_used_bytes{{{_INSTANCE}}})",
                    "{{instance}} {{replica}}",
                )
            ],
            unit="bytes",
        ),
    ],
)

_STARTS = Row(
    "Cold starts",
    [
        Panel(
            "Starts of replicas",
            "In an hour. Many with a pool that scales to zero: raise --idle-timeout, or keep one "
            "replica (--replicas 1-N).",
            [
                PromQuery(
                    "sum(increase(visiondyno_cold_start_seconds_count"
                    f'{{{_INSTANCE}, phase="total"}}[1h]))',
                    "starts",
                )
            ],
        ),
        Panel(
            "Cold start by phase, p95",
            "process: interpreter and imports; load: the model; first_inference: the runtime's "
            "preparation. The longest says what to shorten: a smaller image, model or runtime.",
            [
                PromQuery(
                    "histogram_quantile(0.95, sum by (le, phase) "
                    f"(increase(visiondyno_cold_start_seconds_bucket{{{_INSTANCE}}}[1h])))",
                    "{{phase}}",
                )
            ],
            unit="s",
            limits=Limits(None, 30),
        ),
        Panel(
            "What is served",
            "Model, runtime, device and precision of each server. The digest tells versions apart.",
            [
                PromQuery(
                    "max by (instance, model, digest, runtime, device, precision) "
                    f"(visiondyno_model_info{{{_MODEL}}})",
                    "",
                    shape="table",
                )
            ],
            kind="table",
        ),
    ],
)

INFERENCE = Dashboard(
    uid="visiondyno-inference",
    title="VisionDyno: inference",
    description="Servers of dyno serve: traffic, latency, queue, replicas, cold starts.",
    datasource="prometheus",
    tags=("visiondyno",),
    variables=(
        query_variable(
            "instance", "Server", "prometheus", "label_values(visiondyno_model_info, instance)"
        ),
        query_variable(
            "model",
            "Model",
            "prometheus",
            f"label_values(visiondyno_model_info{{{_INSTANCE}}}, model)",
        ),
    ),
    rows=(_OVERVIEW, _TRAFFIC, _LATENCY, _QUEUE, _REPLICAS, _STARTS),
)
