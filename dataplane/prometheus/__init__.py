"""The Prometheus endpoint.

figures    collectors of the metrics of this process, or of all that use a cache directory
server     HTTP
"""

from dataplane.prometheus.server import MetricsServer, serve_host_metrics, serve_metrics

__all__ = ["MetricsServer", "serve_host_metrics", "serve_metrics"]
