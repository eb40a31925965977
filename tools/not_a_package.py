"""What `pip install .` meets, by pyproject.toml: one line that says how the job is run instead."""

import sys

sys.exit("This is a job, not a package: run it in its folder, python3 main.py (see README.md)")
