"""Builds the objects of a run from its settings; decides and sends nothing."""

import math
import resource
from contextlib import closing
from functools import partial

from configuration.settings import Settings
from db_connection import DatabaseConnection
from delivery.bulk import BatchLimit, BulkDelivery
from delivery.pipeline import Pipeline
from delivery.planner import Planner
from delivery.recorder import Recorder
from delivery.stopping import Stop
from delivery.worker_pool import WorkerPool
from iterable_api.answers import Answer, fetch_user_fields
from iterable_api.payloads import Payloads
from iterable_api.transport import Network, Transport
from iterable_client import IterableClient
from records.delivery_ledger import DeliveryLedger
from records.exit_statuses import StopReason

# Enough for 500 users a second, each with two calls of 1.5 s.
MOST_WORKERS = 1500
# Open files besides the sockets: the log, the ledger, the results, and Python's own.
OTHER_OPEN_FILES = 50


def open_ledger(settings: Settings) -> DeliveryLedger:
    """Return the ledger, which keeps other runs out until it is closed."""
    return DeliveryLedger(
        settings.state_file,
        settings.iterable_api_base_url,
        settings.iterable_api_key.get_secret_value(),
        settings.query_name,
        settings.iterable_project,
    )


def database_connection(settings: Settings) -> DatabaseConnection:
    """Return the connection that the settings describe, not opened yet.

    No statement may take longer than Query 2, nor longer than the whole run.
    """
    limits_s = settings.db_query_timeout_seconds, math.ceil(settings.max_runtime_seconds)
    return DatabaseConnection(
        host=settings.db_host,
        port=settings.db_port,
        user=settings.db_user,
        password=settings.db_password.get_secret_value(),
        database=settings.db_name,
        ssl_ca=settings.db_ssl_ca,
        time_zone=settings.db_time_zone,
        query_timeout_s=min(filter(None, limits_s)),
    )


def most_workers(settings: Settings) -> int:
    """Return the maximum number of rows in flight, which the number of open files limits too.

    Raises the soft limit of open files as far as needed, which takes no special right.
    """
    wanted = settings.iterable_workers or MOST_WORKERS
    files = wanted + OTHER_OPEN_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < files:
        files = files if hard == resource.RLIM_INFINITY else min(files, hard)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
        except (OSError, ValueError):  # a sandbox may forbid it
            files = soft
    return max(1, files - OTHER_OPEN_FILES)


def network(settings: Settings) -> Network:
    """Return the timeout, the CA file and the proxy for Iterable and for HEARTBEAT_URL."""
    proxy = settings.iterable_proxy.get_secret_value()
    return Network(settings.iterable_timeout_seconds, settings.iterable_ca_file, proxy)


def iterable_client(settings: Settings, payloads: Payloads, stop: Stop) -> IterableClient:
    """Return the client that the settings describe; its waits end early when the run stops."""
    return IterableClient(
        settings.iterable_api_key.get_secret_value(),
        settings.iterable_api_base_url,
        payloads=payloads,
        network=network(settings),
        max_attempts=settings.iterable_max_attempts,
        rate_share=settings.iterable_rate_share,
        wait=stop.wait,
        outage=partial(stop.request, StopReason.OUTAGE),
        create_new_fields=settings.create_new_fields,
    )


def user_fields(settings: Settings) -> Answer:
    """Return Iterable's answer to the request for the project's profile fields."""
    transport = Transport(
        settings.iterable_api_base_url,
        settings.iterable_api_key.get_secret_value(),
        network(settings),
    )
    with closing(transport):
        return fetch_user_fields(transport)


def pipeline(
    settings: Settings, plans: Planner, client: IterableClient, recorder: Recorder
) -> Pipeline:
    """Return the pipeline that sends the rows, one by one or in batches, and tells *recorder*."""
    bulk = recorder.run.options.bulk
    limit = BatchLimit(settings.bulk_batch_size if bulk else 1)
    pool = WorkerPool(
        recorder.stop,
        client.process_rows,
        BulkDelivery(client, recorder.stop, limit).process if bulk else None,
        most_workers(settings),
        client.waiting,
    )
    return Pipeline(plans, pool, recorder, limit, settings.results_dir)
