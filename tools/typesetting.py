"""The tools that set the handbook: fonts and Mermaid from npm's registry, Chromium from Debian.

The packages are fetched once into .cache/handbook, each at its pinned version and without what it
depends on: of Mermaid one file is used that is complete in itself. Nothing is fetched while a page
is drawn.
"""

import html
import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from tools.structure import ROOT

CACHE: Final = ROOT / ".cache" / "handbook"
# npm package and version, and the files of it that are used.
PACKAGES: Final = {
    "mermaid@12.3.0": ["dist/mermaid.min.js"],
    "@fontsource/ibm-plex-sans@5.3.0": [
        "files/ibm-plex-sans-latin-400-normal.woff2",
        "files/ibm-plex-sans-latin-400-italic.woff2",
        "files/ibm-plex-sans-latin-500-normal.woff2",
        "files/ibm-plex-sans-latin-600-normal.woff2",
    ],
    # Every sign that the other font lacks, and all code.
    "dejavu-fonts-ttf@2.37.3": [
        "ttf/DejaVuSans.ttf",
        "ttf/DejaVuSansMono.ttf",
        "ttf/DejaVuSansMono-Bold.ttf",
    ],
    "@fontsource/noto-color-emoji@5.3.2": ["files/noto-color-emoji-emoji-400-normal.woff2"],
}
CHROMIUM: Final = ("chromium", "chromium-browser", "google-chrome")
LIMIT_S: Final = 120

# Greys and one blue, as in handbook.css.
MERMAID_CONFIG: Final = """{
  startOnLoad: false, look: 'classic', handDrawnSeed: 1, theme: 'base', fontFamily: 'Plex',
  fontSize: 14,
  flowchart: {curve: 'monotoneX', nodeSpacing: 26, rankSpacing: 34, wrappingWidth: 320},
  sequence: {mirrorActors: false, messageMargin: 26, noteMargin: 8, actorMargin: 70},
  themeVariables: {
    fontFamily: 'Plex', fontSize: '14px', primaryColor: '#f3f6f9', primaryBorderColor: '#7d8fa3',
    primaryTextColor: '#1d2733', lineColor: '#5c6b7a', secondaryColor: '#ffffff',
    tertiaryColor: '#fbfcfd', clusterBkg: '#fbfcfd', clusterBorder: '#c3cdd8',
    edgeLabelBackground: '#ffffff', actorBkg: '#f3f6f9', actorBorder: '#7d8fa3',
    noteBkgColor: '#fff8e6', noteBorderColor: '#d8c48a',
    signalColor: '#3d4a58', sequenceNumberColor: '#ffffff', labelBoxBkgColor: '#e8eef4',
    labelBoxBorderColor: '#7d8fa3',
    attributeBackgroundColorOdd: '#ffffff', attributeBackgroundColorEven: '#f3f6f9'}}"""


class ToolError(Exception):
    """A tool is missing or failed; the message says what to do."""


def fetch_packages() -> None:
    """Fetch what is not there yet."""
    for package, names in PACKAGES.items():
        if not all((CACHE / Path(name).name).exists() for name in names):
            _fetch(package, names)


def _fetch(package: str, names: list[str]) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise ToolError("npm is not installed: apt-get install npm")
    CACHE.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=CACHE) as folder:
        command = [npm, "pack", "--silent", "--pack-destination", folder, package]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
        archives = list(Path(folder).glob("*.tgz"))
        if done.returncode or not archives:
            raise ToolError(f"npm could not fetch {package}: {done.stderr.strip()[-500:]}")
        with tarfile.open(archives[0]) as archive:
            for name in names:
                file = archive.extractfile(f"package/{name}")
                assert file is not None  # noqa: S101 - a regular file of a pinned package
                (CACHE / Path(name).name).write_bytes(file.read())


def draw(diagrams: list[str]) -> list[str]:
    """Return Mermaid *diagrams* as SVG elements."""
    sources = "".join(f"<pre>{html.escape(each)}</pre>" for each in diagrams)
    page = f"""<!doctype html><meta charset="utf-8"><style>{font_faces()}</style>
<body style="font-family: Plex, DejaVu">
<script src="{(CACHE / "mermaid.min.js").as_uri()}"></script>{sources}<script>
(async () => {{
  await Promise.all([...document.fonts].map(font => font.load()));
  mermaid.initialize({MERMAID_CONFIG});
  let number = 0;
  for (const source of document.querySelectorAll('pre')) {{
    const figure = document.createElement('figure');
    try {{
      const drawn = await mermaid.render('diagram' + ++number, source.textContent);
      figure.innerHTML = drawn.svg;
    }} catch (error) {{ figure.textContent = 'FAILED: ' + error; }}
    source.replaceWith(figure);
  }}
}})();
</script>"""
    dom = _chromium(page, "--dump-dom", "--virtual-time-budget=60000").stdout
    drawn = re.findall(r"<figure>(.*?)</figure>", dom, flags=re.DOTALL)
    failed = [text for text in drawn if not text.startswith("<svg")]
    if failed or len(drawn) != len(diagrams):
        raise ToolError(f"Mermaid drew {len(drawn)} of {len(diagrams)} diagrams: {failed}")
    return drawn


def print_pdf(page: str, path: Path) -> None:
    """Print an HTML *page* to a PDF file."""
    _chromium(page, "--no-pdf-header-footer", f"--print-to-pdf={path}")
    if not path.exists():
        raise ToolError("Chromium printed nothing")


def font_faces() -> str:
    """Return the CSS that names the fonts."""
    faces = []
    for names in PACKAGES.values():
        for name in names:
            file = CACHE / Path(name).name
            if file.suffix in {".ttf", ".woff2"}:
                faces.append(_font_face(file))
    return "\n".join(faces)


def _font_face(file: Path) -> str:
    family = "Plex" if "plex" in file.name else "DejaVu" if "Sans.ttf" in file.name else "Code"
    family = "Emoji" if "emoji" in file.name else family
    found = re.search(r"-(\d00)-", file.name)
    weight = "700" if "Bold" in file.name else found[1] if found else "400"
    style = "italic" if "italic" in file.name else "normal"
    return (
        f"@font-face {{ font-family: {family}; font-weight: {weight}; font-style: {style}; "
        f'src: url("{file.as_uri()}"); }}'
    )


def _chromium(page: str, *options: str) -> subprocess.CompletedProcess[str]:
    program = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if program is None:
        raise ToolError("Chromium is not installed: apt-get install chromium")
    with TemporaryDirectory(prefix="handbook-") as folder:
        file = Path(folder, "page.html")
        file.write_text(page, encoding="utf-8")
        command = [program, "--headless", "--disable-gpu", f"--user-data-dir={folder}/profile"]
        # Its sandbox cannot be had by root; the page is our own.
        command += ["--no-sandbox"] if os.geteuid() == 0 else []
        command += ["--allow-file-access-from-files", *options, file.as_uri()]
        done = subprocess.run(
            command, capture_output=True, text=True, encoding="utf-8", timeout=LIMIT_S, check=False
        )
    if done.returncode:
        raise ToolError(f"Chromium failed: {done.stderr.strip()[-500:]}")
    return done
