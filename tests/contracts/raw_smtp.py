"""An SMTP server that keeps every byte: to see what really was on the wire, and to fail at any point of it."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field

#: Where a careful server sees the end of DATA, and where old ones did (CVE-2023-51764).
STRICT = (b"\r\n.\r\n",)
LENIENT = (b"\r\n.\r\n", b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r\n.\r")

#: Hangs up in place of a reply.
DROP = "drop"
#: Never replies.
HANG = "hang"


@dataclass
class RawMessage:
    """One message as this server understood it."""

    sender: bytes
    recipients: list[bytes] = field(default_factory=list)
    data: bytes = b""


class _Gone(Exception):
    """The client, or this server, hung up."""


class RawSmtp:
    """`replies` maps a verb (GREETING, EHLO, MAIL, RCPT, DATA, DOT) to a reply, DROP or HANG."""

    def __init__(self, *, ends: tuple[bytes, ...] = STRICT) -> None:
        self.replies: dict[str, str] = {}
        self.messages: list[RawMessage] = []
        self.commands: list[bytes] = []
        self.connections = 0
        self.reading = asyncio.Event()
        self._ends = ends
        self._server: asyncio.Server | None = None
        self.port = 0

    async def start(self) -> None:
        """Listens on a free port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stops listening."""
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(_Gone, ConnectionError):
            await _Session(self, reader, writer, self._ends).run()
        writer.close()


class _Session:
    def __init__(
        self, server: RawSmtp, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ends: tuple[bytes, ...]
    ) -> None:
        self._server = server
        self._reader = reader
        self._writer = writer
        self._ends = ends
        self._buffer = b""
        self._message: RawMessage | None = None

    async def run(self) -> None:
        await self._say("GREETING", "220 raw.test ESMTP")
        while True:
            line = await self._until((b"\r\n",) if self._ends is STRICT else (b"\r\n", b"\n"))
            self._server.commands.append(line)
            await self._obey(line)

    async def _obey(self, line: bytes) -> None:
        verb = line[:4].upper().decode("latin-1")
        if verb == "MAIL":
            self._message = RawMessage(sender=line[10:].strip())
        elif verb == "RCPT" and self._message is not None:
            self._message.recipients.append(line[8:].strip())
        elif verb == "DATA" and self._message is not None:
            if not await self._say("DATA", "354 go on"):
                return
            self._message.data = await self._until(self._ends)
            self._server.messages.append(self._message)
            await self._say("DOT", "250 taken")
            return
        await self._say(verb, "250 OK" if verb != "QUIT" else "221 bye")

    async def _say(self, verb: str, reply: str) -> bool:
        """Replies as scripted, else as given; True when it was as given."""
        usual = reply
        reply = self._server.replies.get(verb, reply)
        if reply == DROP:
            raise _Gone
        if reply == HANG:
            self._server.reading.set()
            await asyncio.sleep(3600)
        self._writer.write(f"{reply}\r\n".encode())
        await self._writer.drain()
        return reply == usual

    async def _until(self, ends: tuple[bytes, ...]) -> bytes:
        """All up to the earliest of the ends, which is left out of it."""
        while True:
            found = [(self._buffer.find(end), -len(end)) for end in ends if end in self._buffer]
            if found:
                at, size = min(found)[0], -min(found)[1]
                taken, self._buffer = self._buffer[:at], self._buffer[at + size :]
                return taken
            chunk = await self._reader.read(65536)
            if not chunk:
                raise _Gone
            self._buffer += chunk
