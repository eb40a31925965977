"""Read Query 2 with the connector's plain cursor and drop the rows: what any reader takes."""

import os

from mysql.connector.connection import MySQLConnection

from db_connection import JOB_QUERY, load_query


def main() -> None:
    """Read as the DB_ variables say."""
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


if __name__ == "__main__":
    main()
