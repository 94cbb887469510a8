"""A shop's backend: it opens guest sessions itself, and mounts the ledger's HTTP API for auditors and operators.

Its own tables (`examples/fastapi_migrations`) and its own pool are beside the ledger, in the same database.
Run it: `uvicorn examples.fastapi_app:app`, after `guestledger db upgrade` and `alembic -c examples/alembic.ini upgrade head`.
"""

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Cookie, FastAPI, HTTPException, Request
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from guestledger import InvalidRequest, Settings, asgi, connect, parse_request

api = asgi()  # GET /ledger/v1/audit, … with an access key


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    engine = create_async_engine(os.environ["SHOP_DATABASE_URL"], pool_size=10, hide_parameters=True)
    async with connect(Settings.from_env()) as ledger:
        api.use(ledger)  # a mounted application gets no lifespan of its own
        yield {"ledger": ledger, "engine": engine}
        api.use(None)
    await engine.dispose()


app = FastAPI(lifespan=lifespan)
app.mount("/ledger", api)


@app.post("/orders/{order}/chat")
async def chat(order: str, request: Request, shopper: Annotated[str, Cookie()]) -> dict[str, str | None]:
    given = await request.json()
    guest = {name: given.get(name) for name in ("timestamp", "consent")}  # the rest is not the browser's to say
    # With the shopper's secret cookie: an order's number alone would open another shopper's token.
    guest |= {"channelId": "ch_8f3a9b2c", "ipAddress": request.client.host, "idempotencyKey": f"{shopper}:{order}"}
    guest["userAgent"] = request.headers.get("user-agent", "")
    try:
        session = await request.state.ledger.open_session(parse_request(json.dumps(guest).encode()))
    except InvalidRequest as error:
        raise HTTPException(422, f"{error.field}: {error.reason}") from None
    async with request.state.engine.begin() as connection:
        await connection.execute(
            text("INSERT INTO chats VALUES (:number, :session) ON CONFLICT DO NOTHING"),
            {"number": order, "session": str(session.id)},
        )
    return session.for_guest(token=True)
