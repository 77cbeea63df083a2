"""The dashboard of `dyno up` and its workers, for Prometheus.

Servers over one store tell the same of queue, jobs and workers, so those are the greatest of what
they tell, not the sum. What a server counted itself (requests, ended jobs) is added up.
"""

from dashboards.model import Dashboard, Limits, Panel, Row, query_variable
from dashboards.prometheus import PromQuery, quantiles

_INSTANCE = 'instance=~"$instance"'
_API_ONLY = "and on (instance) visiondyno_up"
"""dyno serve exports the same names of requests and of its process."""

_QUEUE = Row(
    "Queue",
    [
        Panel(
            "Jobs waiting",
            "Growing for longer than jobs take: give more workers, dyno up --workers N or dyno "
            "worker on another machine.",
            [PromQuery(f"max(visiondyno_queue_depth{{{_INSTANCE}}})", "waiting")],
            kind="stat",
            width=6,
            height=4,
        ),
        Panel(
            "Oldest waiting job",
            "Age of it. High with idle workers: no worker can take it; dyno jobs show says what it "
            "asks for.",
            [PromQuery(f"max(visiondyno_queue_oldest_seconds{{{_INSTANCE}}})", "age")],
            unit="s",
            kind="stat",
            width=6,
            height=4,
            limits=Limits(600, 1800),
        ),
        Panel(
            "Workers at work",
            "Share of the workers that run a job. 100 % for long: more workers would shorten the "
            "queue. 0 % with jobs waiting: see Workers by state.",
            [
                PromQuery(
                    f'max(visiondyno_workers{{{_INSTANCE}, state="busy"}}) / max(sum by (instance) '
                    f'(visiondyno_workers{{{_INSTANCE}, state=~"idle|busy"}}))',
                    "busy",
                )
            ],
            unit="percentunit",
            kind="stat",
            width=6,
            height=4,
            largest=1,
        ),
        Panel(
            "Store and queue reachable",
            "1 where the server could ask them, 0 where not. 0: start the database or Redis, or "
            "mend the network; jobs that were accepted are kept.",
            [PromQuery(f"min by (part) (visiondyno_up{{{_INSTANCE}}})", "{{part}}")],
            kind="stat",
            width=6,
            height=4,
        ),
        Panel(
            "Queue",
            "Jobs that wait, over time.",
            [PromQuery(f"max(visiondyno_queue_depth{{{_INSTANCE}}})", "waiting")],
            width=12,
        ),
        Panel(
            "Age of the oldest waiting job",
            "It grows by a second a second while nothing is taken from the queue.",
            [PromQuery(f"max(visiondyno_queue_oldest_seconds{{{_INSTANCE}}})", "age")],
            unit="s",
            width=12,
            limits=Limits(None, 1800),
        ),
    ],
)

_JOBS = Row(
    "Jobs",
    [
        Panel(
            "Jobs in the store by state",
            "All that were ever accepted. FAILED that grows: dyno jobs list --state FAILED, then "
            "dyno jobs show.",
            [PromQuery(f"max by (state) (visiondyno_jobs{{{_INSTANCE}}})", "{{state}}")],
        ),
        Panel(
            "Jobs ended by state",
            "A minute, as this server saw them end. TIMED_OUT: raise the time limit of the job, or "
            "its ttl where it never ran.",
            [
                PromQuery(
                    "60 * sum by (state) (rate(visiondyno_job_run_seconds_count"
                    f"{{{_INSTANCE}}}[$__rate_interval]))",
                    "{{state}}",
                )
            ],
            stacked=True,
        ),
        Panel(
            "Times of jobs",
            "How many jobs ran how long. A new band: another kind of work, or slower workers.",
            [
                PromQuery(
                    "sum by (le) (increase(visiondyno_job_run_seconds_bucket"
                    f"{{{_INSTANCE}}}[$__rate_interval]))",
                    "{{le}}",
                    shape="heatmap",
                )
            ],
            unit="s",
            kind="heatmap",
        ),
        Panel(
            "Wait before the first run",
            "p50, p95 and p99 of the time in the queue. High with idle workers: see their state.",
            quantiles("visiondyno_job_queue_seconds", _INSTANCE),
            unit="s",
            width=12,
        ),
        Panel(
            "Run time",
            "p50, p95 and p99 of a job's last attempt.",
            quantiles("visiondyno_job_run_seconds", _INSTANCE),
            unit="s",
            width=12,
        ),
    ],
)

_WORKERS = Row(
    "Workers",
    [
        Panel(
            "Workers by state",
            "backing-off: it died soon after its start and is started again after a pause; dyno "
            "workers and the log say why. draining and drained: somebody asked for it; dyno "
            "workers resume undoes it.",
            [PromQuery(f"max by (state) (visiondyno_workers{{{_INSTANCE}}})", "{{state}}")],
            stacked=True,
        ),
        Panel(
            "Restarts",
            "Processes that were lost and replaced. Each job of theirs ran again. Rising: too "
            "little memory (see Memory), or an operation that crashes.",
            [
                PromQuery(
                    f"max by (worker) (visiondyno_worker_restarts{{{_INSTANCE}}})", "{{worker}}"
                )
            ],
            limits=Limits(1, 5),
        ),
        Panel(
            "Jobs done by worker",
            "Since its supervisor started. One that stands still while others go on is stuck or "
            "drained.",
            [
                PromQuery(
                    f"max by (worker) (visiondyno_worker_jobs_done{{{_INSTANCE}}})", "{{worker}}"
                )
            ],
        ),
        Panel(
            "Memory",
            "Resident memory of each worker's process.",
            [
                PromQuery(
                    f"max by (worker) (visiondyno_worker_resident_bytes{{{_INSTANCE}}})",
                    "{{worker}}",
                )
            ],
            unit="bytes",
        ),
        Panel(
            "GPU memory",
            "In use on the worker's whole GPU, by whomever. Empty without GPUs.",
            [
                PromQuery(
                    f"max by (worker) (visiondyno_worker_gpu_memory_used_bytes{{{_INSTANCE}}})",
                    "{{worker}}",
                )
            ],
            unit="bytes",
        ),
        Panel(
            "Share of the GPU's memory",
            "What each worker may take, where it is limited. More than 1 over the workers of one "
            "GPU: lower --gpu-memory-fraction, or they fail in turns.",
            [
                PromQuery(
                    f"max by (worker) (visiondyno_worker_gpu_memory_fraction{{{_INSTANCE}}})",
                    "{{worker}}",
                )
            ],
            unit="percentunit",
            largest=1,
        ),
    ],
)

_MONEY = Row(
    "Cost and energy",
    [
        Panel(
            "Cost of jobs",
            "USD a day at the present rate, by kind: time on a worker × the price that the job's "
            "spec names. Start-up and idle time aren't in it, and jobs without a price aren't "
            "either: at least so much.",
            [
                PromQuery(
                    "86400 * sum by (kind) "
                    f"(rate(visiondyno_job_cost_usd_total{{{_INSTANCE}}}[1h]))",
                    "{{kind}}",
                )
            ],
            unit="currencyUSD",
            width=12,
        ),
        Panel(
            "Energy measured in jobs",
            "Joules an hour, by kind and source: counter was read from hardware, estimate rests on "
            "assumed power. Only what jobs measured themselves (benchmarks, measured trainings).",
            [
                PromQuery(
                    "3600 * sum by (kind, source) (rate(visiondyno_job_energy_joules_total"
                    f"{{{_INSTANCE}}}[1h]))",
                    "{{kind}} {{source}}",
                )
            ],
            unit="joule",
            width=12,
        ),
    ],
)

_API = Row(
    "HTTP API",
    [
        Panel(
            "Answers by status",
            "401 and 403: keys; 422: wrong requests, the answers say what; 429: above the rate "
            "limit; 503: store or queue away; 500: a defect, please report it with the traceback.",
            [
                PromQuery(
                    "sum by (status) (rate(visiondyno_http_requests_total"
                    f"{{{_INSTANCE}}}[$__rate_interval]) {_API_ONLY})",
                    "{{status}}",
                )
            ],
            unit="reqps",
            stacked=True,
        ),
        Panel(
            "Requests by route",
            "Which addresses are asked for how often.",
            [
                PromQuery(
                    "sum by (method, route) (rate(visiondyno_http_requests_total"
                    f"{{{_INSTANCE}}}[$__rate_interval]) {_API_ONLY})",
                    "{{method}} {{route}}",
                )
            ],
            unit="reqps",
        ),
        Panel(
            "Time of requests, p99",
            "By route. runsync and events wait for jobs by design; others above a second: look at "
            "the database and at the server's processor.",
            [
                PromQuery(
                    "histogram_quantile(0.99, sum by (le, route) "
                    f"(rate(visiondyno_http_request_seconds_bucket{{{_INSTANCE}}}[$__rate_interval])"
                    f" {_API_ONLY}))",
                    "{{route}}",
                )
            ],
            unit="s",
        ),
        Panel(
            "Processor of the server",
            "Busy hardware threads. Near 1: the server itself is the limit; run a second one over "
            "the same PostgreSQL and Redis.",
            [
                PromQuery(
                    f"rate(process_cpu_seconds_total{{{_INSTANCE}}}[$__rate_interval]) {_API_ONLY}",
                    "{{instance}}",
                )
            ],
            width=12,
            limits=Limits(0.8, 1),
        ),
        Panel(
            "Memory of the server",
            "Resident memory. It grows and never falls: a leak; report it.",
            [
                PromQuery(
                    f"process_resident_memory_bytes{{{_INSTANCE}}} {_API_ONLY}", "{{instance}}"
                )
            ],
            unit="bytes",
            width=12,
        ),
    ],
)

FLEET = Dashboard(
    uid="visiondyno-fleet",
    title="VisionDyno: fleet",
    description="Servers of dyno up and their workers: queue, jobs, workers, cost, energy, API.",
    datasource="prometheus",
    tags=("visiondyno",),
    variables=(
        query_variable("instance", "Server", "prometheus", "label_values(visiondyno_up, instance)"),
    ),
    rows=(_QUEUE, _JOBS, _WORKERS, _MONEY, _API),
)
