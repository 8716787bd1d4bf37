"""aiohttp: must not be told of the filter."""

import asyncio
import os

import aiohttp


async def main():
    async with aiohttp.ClientSession() as session, session.get(os.environ["URL"]) as answer:
        print(await answer.text())


asyncio.run(main())
