"""Stand-ins for the two systems that the job connects: a database and Iterable."""
