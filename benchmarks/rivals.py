"""Two programs to hold the job against, each a process of its own.

    python3 -m benchmarks.rivals read                      reads Query 2 and drops the rows
    python3 -m benchmarks.rivals loop URL ROWS             sends one request after the other

Both are honest: the loop keeps its connection and checks every answer. It prints its seconds.
"""

import os
import sys
import time

import requests
from mysql.connector.connection import MySQLConnection

from records.query_file import JOB_QUERY, load_query


def read() -> None:
    """Read with the connector's plain cursor, as the DB_ variables say: what any reader takes."""
    connection = MySQLConnection(
        host=os.environ["DB_HOST"],
        port=int(os.environ["DB_PORT"]),
        user=os.environ["DB_USER"],
        password=os.environ["DB_PASSWORD"],
        database=os.environ["DB_NAME"],
        charset="utf8mb4",
        collation="utf8mb4_general_ci",
    )
    cursor = connection.cursor()
    cursor.execute(load_query(JOB_QUERY))
    while cursor.fetchone() is not None:
        pass
    connection.close()


def loop(url: str, rows: int) -> None:
    """Deliver *rows* users, each with one event."""
    headers = {"Api-Key": "benchmark", "Content-Type": "application/json"}
    with requests.Session() as session:
        session.headers.update(headers)
        began = time.perf_counter()
        for number in range(rows):
            email = f'"email": "user{number}@example.com"'
            user = f'{{{email}, "dataFields": {{"first_name": "User", "candidate": "yes"}}}}'
            event = f'{{{email}, "eventName": "page_view", "id": "view-{number}"}}'
            for endpoint, body in (("users/update", user), ("events/track", event)):
                response = session.post(f"{url}/api/{endpoint}", data=body, timeout=30)
                response.raise_for_status()
                if response.json()["code"] != "Success":
                    raise RuntimeError(endpoint)
        sys.stdout.write(f"{time.perf_counter() - began}\n")


if __name__ == "__main__":
    if sys.argv[1] == "read":
        read()
    else:
        loop(sys.argv[2], int(sys.argv[3]))
