"""The Grafana dashboards, as code: `python -m grafana` writes `grafana/dashboards/*.json` anew.

The JSON is checked in, so that nobody who uses it needs this; a test holds it to the code, and asks a real Prometheus,
fed by a real gate, every question that a panel asks.
"""
