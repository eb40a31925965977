"""How fast the job is, measured on the real program: ``make bench``."""
