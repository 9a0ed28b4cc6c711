"""Settings come from POSTGRAD_* variables, and each says what it is."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pydantic
import pytest

from jobs.database import open_engine
from jobs.errors import DatabaseUnfit
from jobs.settings import Settings


def test_every_setting_has_a_description() -> None:
    assert all(field.description for field in Settings.model_fields.values())


def test_defaults_serve_on_loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"POSTGRAD_{name.upper()}", raising=False)
    settings = Settings()
    assert (settings.host, settings.port, settings.api_key, settings.insecure) == ("127.0.0.1", 8000, None, False)
    assert settings.builtin_dir == Path(sys.prefix, "share/postgrad/datasets")
    assert settings.cpu_slots >= 1
    assert settings.allow_python is False


def test_variables_are_read_and_an_empty_one_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PORT": "9", "INSECURE": "1", "LEASE_SECONDS": "2.5", "API_KEY": "", "DATABASE_URL": ""}.items():
        monkeypatch.setenv(f"POSTGRAD_{name}", value)
    settings = Settings()
    assert (settings.port, settings.insecure, settings.lease_seconds) == (9, True, 2.5)
    assert settings.api_key is None
    assert settings.database.startswith("sqlite:////")


@pytest.mark.parametrize(
    ("name", "value"),
    [("PORT", "70000"), ("LEASE_SECONDS", "0"), ("LOG_LEVEL", "loud"), ("CPU_SLOTS", "-1"), ("PYTHON_MEMORY_BYTES", "1000")],
)
def test_a_value_that_makes_no_sense_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"POSTGRAD_{name}", value)
    with pytest.raises(pydantic.ValidationError, match=name.lower()):
        Settings()


def test_the_key_is_not_printed() -> None:
    assert "pg_hidden" not in repr(Settings(api_key=pydantic.SecretStr("pg_hidden")))


def test_an_in_memory_database_is_no_queue() -> None:
    with pytest.raises(DatabaseUnfit, match="needs a file"):
        open_engine("sqlite://")


def test_the_readme_lists_every_setting() -> None:
    listed = re.findall(r"^\| `POSTGRAD_([A-Z_]+)` \|", Path("README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert [name.lower() for name in listed] == list(Settings.model_fields)
