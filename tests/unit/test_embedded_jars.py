"""Kafka's jars are those of the list, or are not run."""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath

import pytest

from cli import CommandError
from cli.embedded.jars import Jar, listed_jars, verify

_JAR = Jar(hashlib.sha256(b"published").hexdigest(), PurePosixPath("org/example/thing/1.0/thing-1.0.jar"))


def _repository(folder: Path, content: bytes) -> Path:
    file = folder / _JAR.path
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    return folder


def test_the_list_names_each_jar_once() -> None:
    jars = listed_jars()
    names = {jar.path.name for jar in jars}
    assert len(names) == len(jars) > 80
    assert {"kafka_2.13-4.3.1.jar", "kafka-tools-4.3.1.jar"} <= names
    assert all(len(jar.sha256) == 64 for jar in jars)


def test_the_published_file_passes(tmp_path: Path) -> None:
    verify(_repository(tmp_path, b"published"), [_JAR])


def test_an_altered_jar_is_named(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"thing-1\.0\.jar is not the published file"):
        verify(_repository(tmp_path, b"altered"), [_JAR])


def test_a_missing_jar_is_named(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"can't be read.*thing-1\.0\.jar"):
        verify(tmp_path, [_JAR])
