"""`eventsourcing` 9.5.6: lifecycles of five appends through its Postgres application recorder, from threads.

Configured for speed, as its users can: the recorder is used directly, with no aggregate or mapper above it; 64 threads
share a pool of its own. The application recorder is the one with an order over all streams. What is stored is as long as our
own events.

By default it locks its table for each insert, which is what makes that order safe to follow; this is what we are held
against. With `POSTGRES_ENABLE_DB_FUNCTIONS` (the last argument) an insert is one call of a function that takes no such lock:
faster, but a later id may then be visible before an earlier one, and a reader of the log skips that. `make bench`
shows that too, as *unordered*, without a limit.

    python eventsourcing_side.py HOST PORT USER DATABASE CONCURRENCY POOL yes|no
"""

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

from eventsourcing.persistence import StoredEvent
from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore
from rounds import answer

host, port, user, database, concurrency, pool, functions = sys.argv[1:]
STATE = b"x" * 206

datastore = PostgresDatastore(
    dbname=database,
    host=host,
    port=port,
    user=user,
    password="",
    pool_size=int(pool),
    connect_timeout=30,
    enable_db_functions=functions == "yes",
)
recorder = PostgresApplicationRecorder(datastore, events_table_name=f"events_{functions}")
recorder.create_table()
threads = ThreadPoolExecutor(int(concurrency))


def lifecycle(_number: int) -> list[float]:
    stream_id, appends = uuid4(), []
    for version in range(1, 6):
        began = time.perf_counter()
        recorder.insert_events([StoredEvent(stream_id, version, "guestledger:CreationThrottled", STATE)])
        appends.append(time.perf_counter() - began)
    return appends


def one_round(lifecycles: int) -> list[float]:
    return [seconds for appends in threads.map(lifecycle, range(lifecycles)) for seconds in appends]


answer(one_round)
datastore.close()
