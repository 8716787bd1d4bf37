"""aiohttp: must not be told of the filter."""

import asyncio

import aiohttp


async def main():
    async with aiohttp.ClientSession() as session, session.get("https://up.test/hello/python_aiohttp") as answer:
        print(await answer.text())


asyncio.run(main())
