"""The Prometheus endpoint.

figures    the figures of this process, or of all that use a cache directory, as it takes them
server     HTTP
"""

from dataplane.prometheus.server import MetricsServer, serve_host_metrics, serve_metrics

__all__ = ["MetricsServer", "serve_host_metrics", "serve_metrics"]
