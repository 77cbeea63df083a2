"""Grafana dashboards as data; `scripts/write_dashboards.py` writes their JSON.

The format is Grafana's dashboard JSON model
(https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/).
"""
