"""The engine, and a session for each request. DATABASE_URL says where the database is."""

import os
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import create_async_engine
from sqlmodel.ext.asyncio.session import AsyncSession

url = make_url(os.environ["DATABASE_URL"]).set(drivername="postgresql+psycopg_async")
engine = create_async_engine(url, plugins=["poolguard"])


async def get_session() -> AsyncIterator[AsyncSession]:
    """A session, whose connection goes back when the endpoint has returned."""
    async with AsyncSession(engine, expire_on_commit=False) as session:
        yield session


# The scope: by default the connection is held until the response is sent and its background tasks
# are done.
Session = Annotated[AsyncSession, Depends(get_session, scope="function")]
