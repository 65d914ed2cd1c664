"""How fastbn was installed."""

from __future__ import annotations

import importlib.metadata
import json

import pytest


def editable() -> bool:
    text = importlib.metadata.distribution("fastbn").read_text("direct_url.json")
    return bool(text) and bool(json.loads(text).get("dir_info", {}).get("editable", False))


needs_wheel = pytest.mark.skipif(editable(), reason="an editable install has no files of a wheel")
