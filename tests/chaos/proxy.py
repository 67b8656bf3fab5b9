"""A TCP proxy between a process and Redis, which can interrupt the connection and restore it."""

from __future__ import annotations

import asyncio
import contextlib
import threading

_CHUNK = 65536


class Proxy:
    """Forwards a port of its own to `target`, another port of this machine, from a thread.

    Cut in silence, it keeps what it is given and hands it on when mended, as a network does:
    what a frozen or cut-off worker said long ago arrives all the same. Cut with `reset`, it
    drops all connections and takes no new ones.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._open = asyncio.Event()
        self._open.set()
        self._refuses = False
        self._writers: set[asyncio.StreamWriter] = set()
        server = asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._server = self._loop.run_until_complete(server)
        self.port = int(self._server.sockets[0].getsockname()[1])
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def cut(self, *, reset: bool = False) -> None:
        """Let nothing through any more."""
        self._loop.call_soon_threadsafe(self._cut, reset)

    def mend(self) -> None:
        """Let everything through again."""
        self._loop.call_soon_threadsafe(self._mend)

    def close(self) -> None:
        """Stop, dropping all connections."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _cut(self, reset: bool) -> None:
        if reset:
            self._refuses = True
            for writer in self._writers:
                writer.transport.abort()
        else:
            self._open.clear()

    def _mend(self) -> None:
        self._refuses = False
        self._open.set()

    async def _end(self) -> None:
        self._server.close()
        self._cut(reset=True)
        self._open.set()
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()})

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = {writer}
        self._writers.add(writer)
        try:
            if self._refuses:
                return
            await self._open.wait()
            there_reader, there = await asyncio.open_connection("127.0.0.1", self._target)
            ends.add(there)
            self._writers.add(there)
            await asyncio.gather(self._pump(reader, there), self._pump(there_reader, writer))
        except OSError:
            pass  # one side is gone, and so is the other below
        finally:
            for end in ends:
                self._writers.discard(end)
                end.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_CHUNK):
            await self._open.wait()
            writer.write(data)
            await writer.drain()
        with contextlib.suppress(OSError):
            writer.write_eof()
