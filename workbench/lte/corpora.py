"""The texts LTE is trained and measured on: taken out of two published Python packages, which are never installed.

    sentences()      10,605 movie-review sentences with a mean human score in [-4, 4] (vaderSentiment 0.5, MIT)
    news()           300 news articles (gensim 4.4.0, the Lee corpus)
    encyclopedia()   206 Wikipedia articles, wiki markup removed (gensim 4.4.0; their text is CC BY-SA)

Each package is downloaded once, without its dependencies, into the user's cache and kept under its checksum.
"""

from __future__ import annotations

import bz2
import html
import io
import re
import shutil
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.machinery import PathFinder
from pathlib import Path

from workbench.lm import fetch
from workbench.lm.files import cache_root, sha256

Beat = Callable[[], None]


class TextUnavailable(RuntimeError):
    """The texts are not on this machine and could not be fetched; the message says why and what to do."""


@dataclass(frozen=True)
class Package:
    """One file of a package index: what is asked for, what it is called and hashes to."""

    wanted: str
    file: str
    sha256: str
    options: tuple[str, ...]  # of `pip download`
    size_mb: float


VADER = Package(
    "vaderSentiment==0.5",
    "vaderSentiment-0.5.zip",
    "5d97c37f3ef6e24eef331122e055dbedafeb6a56abfce0608b326701116ea49a",
    ("--no-binary=:all:",),
    2.4,
)
GENSIM = Package(
    "gensim==4.4.0",
    "gensim-4.4.0-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl",
    "91a7fa5e814e7b1bad4b2dffa8d62c1e55410d5cbdf930714c1997ffb4404db8",
    # one and the same file whatever this machine is: only its texts are read
    ("--only-binary=:all:", "--python-version=3.11", "--platform=manylinux_2_28_x86_64"),
    27.8,
)


def get(package: Package, beat: Beat = lambda: None) -> Path:
    """The package's file in the cache, downloaded first where it is missing; `beat` may raise to end that.

    TextUnavailable when it cannot be had, or is not the file it should be.
    """
    kept = cache_root() / "texts" / package.file
    if not kept.is_file():
        _download(package, kept, beat)
    if (got := sha256(kept, beat)) != package.sha256:
        raise TextUnavailable(
            f"{kept} has sha256 {got[:12]}..., not {package.sha256[:12]}...: it is damaged or another version; "
            "remove it and try again"
        )
    return kept


def _download(package: Package, kept: Path, beat: Beat) -> None:
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".text-", dir=kept.parent) as scratch:
        target = Path(scratch) / "package"
        wish = ["--quiet", "--no-deps", *package.options, "--dest", str(target), package.wanted]
        problem = fetch._run([*_pip(), "download", *wish], Path(scratch) / "pip.log", beat)
        found = target / package.file
        if problem or not found.is_file():
            raise TextUnavailable(
                f"the texts of {package.wanted} are not on this machine and could not be fetched: "
                f"pip {problem or f'did not leave {package.file}'}\n"
                f"Connect once to a package index, or put {package.file} ({package.size_mb} MB) into {kept.parent}, "
                "then try again."
            )
        shutil.move(found, kept)


def _pip() -> list[str]:
    if PathFinder.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    if bundled := fetch._bundled_pip():  # environments by uv have none of their own
        return [sys.executable, f"{bundled}/pip"]
    raise TextUnavailable("this Python has no pip to fetch the texts with: install pip, then try again")


@cache
def sentences() -> tuple[tuple[str, float], ...]:
    """Every movie-review sentence with its mean human score, -4 (very negative) to 4."""
    with zipfile.ZipFile(get(VADER)) as outer:
        inner = outer.read("vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz")
    with tarfile.open(fileobj=io.BytesIO(inner)) as archive:
        member = archive.extractfile("hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt")
        assert member is not None
        lines = member.read().decode("utf-8", errors="replace").splitlines()
    rows = (line.split("\t", 2) for line in lines if line.count("\t") >= 2)
    return tuple((text.strip(), float(score)) for _, score, text in rows if text.strip())


@cache
def news() -> tuple[str, ...]:
    """300 news articles, one string each."""
    with zipfile.ZipFile(get(GENSIM)) as wheel:
        text = wheel.read("gensim/test/test_data/lee_background.cor").decode("utf-8", errors="replace")
    return tuple(line.strip() for line in text.splitlines() if line.strip())


@cache
def encyclopedia() -> tuple[str, ...]:
    """Wikipedia articles as plain paragraphs; redirects and stubs (under 500 characters) are left out."""
    name = "gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
    with zipfile.ZipFile(get(GENSIM)) as wheel:
        xml = bz2.decompress(wheel.read(name)).decode("utf-8", errors="replace")
    bodies = re.findall(r"<text[^>]*>(.*?)</text>", xml, flags=re.DOTALL)
    plain = (strip_markup(html.unescape(body)) for body in bodies if not body.startswith("#REDIRECT"))
    return tuple(text for text in plain if len(text) >= 500)


def strip_markup(text: str) -> str:
    """Wiki markup to plain paragraphs: templates, tables, references, links to files and lists are dropped."""
    text = re.sub(r"<!--.*?-->|<ref[^>]*/>|<ref.*?</ref>|<math.*?</math>", "", text, flags=re.DOTALL)
    for pattern in (r"\{\{[^{}]*\}\}", r"\{\|[^{}]*?\|\}"):
        for _ in range(6):  # from the innermost outwards
            text, changed = re.subn(pattern, "", text, flags=re.DOTALL)
            if not changed:
                break
    for _ in range(3):
        text = re.sub(r"\[\[(?:File|Image|Category):[^\[\]]*\]\]", "", text, flags=re.IGNORECASE)
        text = re.sub(r"\[\[(?:[^\[\]|]*\|)?([^\[\]|]*)\]\]", r"\1", text)
    text = re.sub(r"\[https?:\S+ ?([^\]]*)\]", r"\1", text)
    text = html.unescape(re.sub(r"<[^>]+>", "", text)).replace("'''", "").replace("''", "")
    lines = (" ".join(line.split()) for line in text.splitlines())
    return "\n".join(line for line in lines if len(line) > 60 and line[0] not in "=*#:;|!{}[")
