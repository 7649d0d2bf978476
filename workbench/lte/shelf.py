"""Where the trained artifacts lie."""

from __future__ import annotations

from pathlib import Path

ARTIFACTS = Path(__file__).parent / "artifacts"
FOLDERS = {"sentiment": "sentiment-80", "news": "news-65"}
ARMS = ("dense", "lte")
CONFIG = "config.json"


def has_artifact(task: str) -> bool:
    """Whether both arms of the task are shipped."""
    return all((ARTIFACTS / FOLDERS[task] / arm / CONFIG).is_file() for arm in ARMS)
