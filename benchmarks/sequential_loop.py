"""The rival: the loop that one would write first, one request after the other.

    python3 -m benchmarks.sequential_loop URL ROWS

It is honest: one Session for all, so connections are kept, and it checks every answer. It prints
the users it delivered a second.
"""

import sys
import time

import requests


def post(session: requests.Session, url: str, body: str) -> None:
    """Send one request; raise if Iterable does not take it."""
    headers = {"Content-Type": "application/json"}
    response = session.post(url, data=body, headers=headers, timeout=30)
    response.raise_for_status()
    if response.json()["code"] != "Success":
        raise RuntimeError(url)


def main() -> None:
    """Deliver the users that the command line asks for, each with one event."""
    url, rows = sys.argv[1], int(sys.argv[2])
    with requests.Session() as session:
        session.headers["Api-Key"] = "benchmark"
        began = time.perf_counter()
        for number in range(rows):
            email = f'"email": "user{number}@example.com"'
            user = f'{{{email}, "dataFields": {{"first_name": "User", "candidate": "yes"}}}}'
            event = f'{{{email}, "eventName": "page_view", "id": "view-{number}"}}'
            post(session, f"{url}/api/users/update", user)
            post(session, f"{url}/api/events/track", event)
        sys.stdout.write(f"{rows / (time.perf_counter() - began)}\n")


if __name__ == "__main__":
    main()
