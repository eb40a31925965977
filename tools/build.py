"""Writes what code can show into the documents, between their markers: python -m tools.build.

    <!-- generated: NAME -->
    what this program writes
    <!-- end -->

It also writes SAMPLE_RESULTS.json and results.schema.json, and the help text into README.md. All
of it comes from the code and from one real run against a private database and a local Iterable;
tests/tools/test_docs.py fails when what is written is not what would be written now.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from iterable_api.endpoints import LIMITS_PER_S
from records.exit_statuses import MEANINGS
from records.query_file import JOB_QUERY, load_query
from records.results_model import json_schema
from sandbox.database import PrivateDatabase
from sandbox.iterable import IterableSandbox
from tools import structure
from tools.evidence import Evidence, collect
from tools.structure import ROOT

DOCS = ROOT / "docs"
SAMPLE = DOCS / "SAMPLE_RESULTS.json"
SCHEMA = DOCS / "results.schema.json"
README = ROOT / "README.md"
# Fourteen to forty letters and digits, as Iterable's keys are; it opens nothing but the sandbox.
API_KEY = "0123456789abcdef0123456789abcdef"

_BLOCK = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_HELP = re.compile(r"```text\nusage: main\.py.*?\n```", re.DOTALL)


def main() -> None:
    """Rewrite every document that is no longer true."""
    for path, text in current_texts(static_blocks() | live_blocks(fresh_evidence())):
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            sys.stdout.write(f"wrote {path.relative_to(ROOT)}\n")


def current_texts(blocks: Mapping[str, str]) -> Iterator[tuple[Path, str]]:
    """Yield each document and the text that it should have, as far as *blocks* tell."""
    if "sample" in blocks:
        yield SAMPLE, blocks["sample"]
    if "results_schema" in blocks:
        yield SCHEMA, blocks["results_schema"]
    for path in sorted(DOCS.glob("*.md")):
        yield path, fill(path.read_text(encoding="utf-8"), blocks)
    if "help" in blocks:
        yield README, _HELP.sub(lambda _: blocks["help"], README.read_text(encoding="utf-8"))


def fill(text: str, blocks: Mapping[str, str]) -> str:
    """Return *text* with the content of the blocks whose names are in *blocks*."""

    def content(match: re.Match[str]) -> str:
        if match[2] not in blocks:
            return match[0]
        return f"{match[1]}\n{blocks[match[2]]}\n\n{match[3]}"

    return _BLOCK.sub(content, text)


def block_names(text: str) -> set[str]:
    """Return the names of the blocks in *text*."""
    return {match[2] for match in _BLOCK.finditer(text)}


def static_blocks() -> dict[str, str]:
    """Return what the sources alone tell."""
    return {
        "tree": f"```text\n{structure.tree()}\n```",
        "dependencies": structure.dependencies(),
        "sizes": structure.sizes(),
        "statuses": statuses(),
        "limits": limits(),
        "performance": performance(),
        "fields": fields(),
        "results_schema": json.dumps(json_schema(), indent=2) + "\n",
        "query": query(),
        "help": f"```text\n{usage()}\n```",
    }


def live_blocks(evidence: Evidence) -> dict[str, str]:
    """Return what a run told."""
    return {
        "console": f"```text\n{evidence.console}\n```",
        "exchanges": evidence.exchanges,
        "schema": evidence.schema,
        "indexes": evidence.indexes,
        "sample": evidence.results,
    }


def fresh_evidence() -> Evidence:
    """Run the job against a sandbox of its own."""
    with (
        tempfile.TemporaryDirectory(prefix="docs-") as folder,
        PrivateDatabase() as database,
        IterableSandbox(api_key=API_KEY) as iterable,
    ):
        database.load(ROOT / "database_setup.sql")
        environ = {
            **database.settings,
            "ITERABLE_API_KEY": API_KEY,
            "ITERABLE_API_BASE_URL": iterable.url,
        }
        return collect(environ, iterable, Path(folder))


def usage() -> str:
    """Return what --help says."""
    done = subprocess.run(
        [sys.executable, ROOT / "main.py", "--help"],
        env={**os.environ, "COLUMNS": "100", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def query() -> str:
    """Return the job's query, without the comment above it."""
    text = load_query(JOB_QUERY)
    return f"```sql\n{text[text.index('WITH') :]};\n```"


def statuses() -> str:
    """Return the exit statuses as a table."""
    rows = [f"| {status.value} | {meaning.summary} |" for status, meaning in MEANINGS.items()]
    return "\n".join(["| exit status | meaning |", "| ---: | --- |", *rows])


def limits() -> str:
    """Return Iterable's limits as the client knows them."""
    lines = ["| endpoint | requests a second |", "| --- | ---: |"]
    lines += [f"| `POST /api/{path}` | {limit} |" for path, limit in LIMITS_PER_S.items()]
    return "\n".join(lines)


def performance() -> str:
    """Return what benchmarks/RESULTS.md has measured, without its notes."""
    text = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    when = re.search(r"on (\d{4}-\d\d-\d\d)", text)
    machine = re.search(r"^- Machine: (.+?)(?:;.*)?$", text, flags=re.MULTILINE)
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    lines = ["| what | measured | must reach | ratio |", "| --- | --- | --- | --- |"]
    for name, measured, ratio, must, *_ in rows[2:]:
        lines.append(f"| {name} | {measured} | {must} | {ratio} |")
    if not when or not machine:
        raise ValueError("benchmarks/RESULTS.md does not say when and on which machine")
    return "\n".join([f"Measured on {when[1]}, on {machine[1]}.", "", *lines])


def fields() -> str:
    """Return the fields of a results file as a table, out of its JSON Schema."""
    schema = json_schema()
    lines = ["| field | type | meaning |", "| --- | --- | --- |"]
    seen = set()
    for path, field in _fields(schema, schema, ""):
        # Both calls have the same fields: those of the second are not told again.
        key = (path.rpartition(".")[2], field.get("description"))
        if key in seen:
            continue
        seen.add(key)
        lines.append(f"| `{path}` | {_type(field)} | {field.get('description', '')} |")
    return "\n".join(lines)


def _fields(
    schema: dict[str, Any], node: dict[str, Any], before: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the path and the schema of every field below *node*."""
    for name, field in node.get("properties", {}).items():
        found, path = _resolved(schema, field), f"{before}{name}"
        yield path, found
        if "items" in found:
            yield from _fields(schema, _resolved(schema, found["items"]), f"{path}[].")
        elif "properties" in found:
            yield from _fields(schema, found, f"{path}.")
        elif "$ref" in (more := found.get("additionalProperties", {})):
            yield from _fields(schema, _resolved(schema, more), f"{path}.*.")


def _resolved(schema: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    """Return *node* with what it refers to; what it says itself wins."""
    if "$ref" not in node:
        return node
    target: dict[str, Any] = schema["$defs"][node["$ref"].removeprefix("#/$defs/")]
    return target | node


def _type(field: dict[str, Any]) -> str:
    if "enum" in field:
        return "one of " + ", ".join(f"`{value}`" for value in field["enum"])
    if "const" in field:
        return f"`{field['const']}`"
    if "anyOf" in field:
        return " or ".join(map(_type, field["anyOf"]))
    kinds = field["type"] if isinstance(field["type"], list) else [field["type"]]
    return " or ".join(kinds)


if __name__ == "__main__":
    main()
