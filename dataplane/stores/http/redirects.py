"""Redirections: the URL that one leads to, and whether our own requests may follow it. Pure.

Only to http and https, and never from https to http. Such requests carry no credentials, and none
are taken from the new URL, so nothing can leak to another host.
"""

from __future__ import annotations

import string
from urllib.parse import quote, urljoin, urlsplit

__all__ = ["MAX_REDIRECTS", "REDIRECTS", "redirected"]

MAX_REDIRECTS = 10
REDIRECTS = frozenset({301, 302, 303, 307, 308})
"""Statuses of redirections. Source: RFC 9110 §15.4."""
_SAFER = {"http": ("http", "https"), "https": ("https",)}


def redirected(url: str, location: str) -> str:
    """Return the URL that a response to a GET or HEAD of `url` leads to.

    Args:
        url: URL asked for, http or https.
        location: header of the response, its characters standing for bytes.

    Raises:
        ValueError: it must not be followed; the text says why, without the URL.
    """
    if not location:
        raise ValueError("a redirection that leads nowhere")
    target = urljoin(url, quote(location, safe=string.punctuation, encoding="iso-8859-1"))
    parts = urlsplit(target)
    scheme = urlsplit(url).scheme
    if parts.scheme not in _SAFER.get(scheme, ()):
        raise ValueError(f"a redirection from {scheme} to {parts.scheme}")
    if not parts.hostname or "@" in parts.netloc:
        raise ValueError("a redirection to a URL without a host, or with credentials")
    return target.partition("#")[0]
