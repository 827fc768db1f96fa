"""Administration of a cache, for commands, mounts and datasets: inspecting and maintaining it.

The numbers of its policy are here, too, for who predicts what it will do.

The one interface to the packages below; nothing outside of `dataplane.cache` imports those.
"""

from dataplane.cache.disk.directory import check_usable, is_in_use, unusable_warning
from dataplane.cache.disk.entry_identity import Scope, map_disk_bytes, page_rounded
from dataplane.cache.disk.other_version import remove_other_version
from dataplane.cache.disk.pins import Pin
from dataplane.cache.disk.session import Session
from dataplane.cache.disk.unusable import is_news
from dataplane.cache.entries.keys import KEY_VARIABLE, load_key
from dataplane.cache.eviction.budget import (
    MAX_SLACK_BYTES,
    SLACK_SHARE,
    excess_bytes,
    has_files,
)
from dataplane.cache.eviction.catalog import Catalog
from dataplane.cache.eviction.inventory import (
    EntryRow,
    Totals,
    add_up,
    disk_room,
    used_bytes,
    walk,
)
from dataplane.cache.eviction.working_set import PASSES
from dataplane.cache.fetch.scheduler import SHARED_BYTES
from dataplane.cache.gauges import directory_gauges
from dataplane.cache.maintenance.cleanup import Cleared, clear, collect
from dataplane.cache.maintenance.process_statistics import ProcessFigures, read_published
from dataplane.cache.maintenance.verify import VerifyReport, verify
from dataplane.cache.plan import MIN_JOBS_PER_THREAD, REQUESTS_PER_THREAD

__all__ = [
    "KEY_VARIABLE",
    "MAX_SLACK_BYTES",
    "MIN_JOBS_PER_THREAD",
    "PASSES",
    "REQUESTS_PER_THREAD",
    "SHARED_BYTES",
    "SLACK_SHARE",
    "Catalog",
    "Cleared",
    "EntryRow",
    "Pin",
    "ProcessFigures",
    "Scope",
    "Session",
    "Totals",
    "VerifyReport",
    "add_up",
    "check_usable",
    "clear",
    "collect",
    "directory_gauges",
    "disk_room",
    "excess_bytes",
    "has_files",
    "is_in_use",
    "is_news",
    "load_key",
    "map_disk_bytes",
    "page_rounded",
    "read_published",
    "remove_other_version",
    "unusable_warning",
    "used_bytes",
    "verify",
    "walk",
]
