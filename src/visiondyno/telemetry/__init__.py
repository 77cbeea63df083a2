"""What a running server tells of itself: logs, access log, traces.

Metrics are beside what they count. Nothing is imported here: traces bring in OpenTelemetry.
"""
