"""Stand-ins for the two systems between which the job works: a database and Iterable."""
