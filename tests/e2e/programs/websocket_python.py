"""Many messages both ways at once, small and large, text and binary; then a ping, and an orderly end."""

import asyncio

from websockets.asyncio.client import connect

MESSAGES = ["text", "", "ü" * 70_000, b"\0" * 200_000, bytes(range(256)) * 64] + [f"message {n}" for n in range(500)]


async def main():
    async with connect("wss://up.test/echo", max_size=None) as socket:

        async def send():
            for message in MESSAGES:
                await socket.send(message)

        sending = asyncio.create_task(send())
        for message in MESSAGES:
            assert await socket.recv() == message
        await sending
        await (await socket.ping())
        await socket.close(4242, "enough")
    print("echoed", len(MESSAGES), socket.close_code)


asyncio.run(main())
