"""Kafka's jars: fetched once from Maven's central repository by jgo, and verified before every start.

The list of files beside this module pins each one by its sha256 (`sha256sum -c` in the repository's
folder reads it too), so nothing is resolved at run time, and an altered jar is never run. To make the
list anew after a change of version: ``python -m cli.embedded.jars``.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from cli import CommandError

KAFKA_VERSION = "4.3.1"
_COORDINATES = "+".join(
    (
        f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}",
        f"org.apache.kafka:kafka-tools:{KAFKA_VERSION}",
        # Kafka's distribution has it, its POM has not; without it the broker logs nothing.
        # "!": its dependency management is not to decide versions of the others.
        "org.apache.logging.log4j:log4j-slf4j-impl:2.25.4!",
    )
)
_LIST = Path(__file__).with_name(f"kafka-{KAFKA_VERSION}.sha256")
_DOWNLOADS_AT_ONCE = 8


@dataclass(frozen=True)
class Jar:
    """One file of the list."""

    sha256: str
    #: Relative to the repository, in Maven's layout: group/artifact/version/artifact-version.jar
    path: PurePosixPath

    def check(self, repository: Path) -> None:
        """Raises CommandError, naming the file, when its content is not that of the list."""
        file = repository / self.path
        if _sha256(file) != self.sha256:
            raise CommandError(f"{self.path.name} is not the published file (sha256 differs): delete {file}")


def listed_jars() -> list[Jar]:
    lines = (line.split() for line in _LIST.read_text().splitlines())
    return [Jar(sha256, PurePosixPath(path)) for sha256, path in lines]


def repository(fallback: Path) -> Path:
    """Maven's local repository (M2_REPO, else ~/.m2/repository), or `fallback` where that can't be written."""
    from jgo.config import GlobalSettings

    usual = Path(GlobalSettings.load().repo_cache)
    try:
        usual.mkdir(parents=True, exist_ok=True)
        if os.access(usual, os.R_OK | os.W_OK | os.X_OK):
            return usual
    except OSError:
        pass
    fallback.mkdir(parents=True, exist_ok=True)
    return fallback


def fetch_missing(
    folder: Path, jars: list[Jar], *, progress: Callable[[str], None], cancelled: threading.Event
) -> None:
    """Downloads what is not there yet. Raises CommandError when that fails."""
    missing = [jar for jar in jars if not (folder / jar.path).exists()]
    if not missing:
        return
    # jgo writes straight to the final name; in a folder of our own a download that is cut short, or two
    # at once, leave no half a jar behind.
    with (
        tempfile.TemporaryDirectory(dir=folder, prefix=".comms-") as staging,
        ThreadPoolExecutor(_DOWNLOADS_AT_ONCE) as pool,
    ):
        fetches = [pool.submit(_fetch, jar, Path(staging), folder, cancelled) for jar in missing]
        for count, fetch in enumerate(fetches, start=1):
            fetch.result()
            progress(f"downloaded {count} of {len(missing)} jars")


def verify(folder: Path, jars: list[Jar]) -> None:
    """Raises CommandError naming the first jar that is missing or differs from the list."""
    try:
        for jar in jars:
            jar.check(folder)
    except OSError as error:
        raise CommandError(f"a jar of Kafka can't be read: {error.strerror}: {error.filename}") from error


def _fetch(jar: Jar, staging: Path, folder: Path, cancelled: threading.Event) -> None:
    if cancelled.is_set():
        raise CommandError("the download of Kafka was interrupted")
    try:
        _download(jar, staging)
    except Exception as error:
        raise CommandError(f"{jar.path.name} can't be downloaded: {_first_line(error)}") from error
    jar.check(staging)
    (folder / jar.path).parent.mkdir(parents=True, exist_ok=True)
    (staging / jar.path).replace(folder / jar.path)


def _download(jar: Jar, staging: Path) -> None:
    from jgo.config import GlobalSettings
    from jgo.constants import MAVEN_CENTRAL_URL
    from jgo.maven import MavenContext

    remotes = {**GlobalSettings.load().repositories, "central": MAVEN_CENTRAL_URL}
    context = MavenContext(repo_cache=staging, remote_repos=remotes, timeout=30)
    *group, artifact, version, _ = jar.path.parts
    context.project(".".join(group), artifact).at_version(version).artifact().resolve()


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _main() -> None:
    """Prints the list as the resolver sees it now."""
    import jgo

    artifacts = jgo.resolve(_COORDINATES)
    with ThreadPoolExecutor(_DOWNLOADS_AT_ONCE) as pool:
        files = sorted(pool.map(lambda artifact: artifact.resolve(), artifacts))
    for file in files:
        print(f"{_sha256(file)}  {file.relative_to(artifacts[0].context.repo_cache)}")


if __name__ == "__main__":
    _main()
