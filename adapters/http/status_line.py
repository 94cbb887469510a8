"""What aiohttp leaves open about answers: the status under a head that cannot be parsed, and those nobody asked for."""

import re
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler

MAX_KEPT = 4_096
_INTERIM = rb"HTTP/1\.\d 1\d\d[^\n]*\n(?:[^\r\n][^\n]*\n)*\r?\n"
_STATUS = re.compile(rb"(?:%s)*HTTP/\d(?:\.\d)? ([2-5]\d\d)\b" % _INTERIM)


class KeepingHandler(ResponseHandler):
    """Keeps the first bytes of each answer. A connection with an answer that no request asked for is not used again."""

    kept = b""

    def is_connected(self) -> bool:
        """Called before a connection of the pool is used."""
        # aiohttp asks for `should_close` only after a request: a later answer would be that of the next request.
        return super().is_connected() and not self.should_close

    def set_response_params(self, **given: Any) -> None:
        """Called before each request."""
        self.kept = b""
        super().set_response_params(**given)

    def data_received(self, data: bytes) -> None:
        """Called with bytes from the network."""
        self.kept += data[: MAX_KEPT - len(self.kept)]
        super().data_received(data)


class KeepingResponse(aiohttp.ClientResponse):
    """Raises `ClientResponseError` with the status that the server sent; 0: none."""

    async def start(self, connection: Any) -> aiohttp.ClientResponse:
        """Read the head."""
        try:
            return await super().start(connection)
        except aiohttp.ClientResponseError as error:
            found = _STATUS.match(getattr(connection.protocol, "kept", b""))
            error.status = int(found[1]) if found else 0
            raise
