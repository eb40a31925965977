"""Read Query 2 with the connector's plain cursor and throw the rows away: what any reader takes."""

import os

from mysql.connector.connection import MySQLConnection

from records.query_file import JOB_QUERY, load_query


def main() -> None:
    """Read as the DB_ variables say."""
    host = os.environ["DB_HOST"]
    port = int(os.environ.get("DB_PORT") or 3306)
    place = {"unix_socket": host} if host.startswith("/") else {"host": host, "port": port}
    connection = MySQLConnection(
        user=os.environ["DB_USER"],
        password=os.environ["DB_PASSWORD"],
        database=os.environ["DB_NAME"],
        charset="utf8mb4",
        collation="utf8mb4_general_ci",
        **place,
    )
    cursor = connection.cursor()
    cursor.execute(load_query(JOB_QUERY))
    while cursor.fetchone() is not None:
        pass
    connection.close()


if __name__ == "__main__":
    main()
