"""channels_redis: its layer through an outage, one event loop for each call as `async_to_sync` has, and one for all."""

# needs: channels channels_redis django
import asyncio

from django.conf import settings
from outage import Outage

with Outage() as outage:
    page = outage.page("channels")
    settings.configure(CHANNEL_LAYERS=page.CHANNEL_LAYERS)
    from channels.layers import get_channel_layer

    layer = get_channel_layer()

    async def talk():
        await layer.send("someone", {"type": "greeting", "text": "hello"})
        assert (await layer.receive("someone"))["text"] == "hello"

    async def speak():
        await layer.group_add("everyone", "someone")
        await layer.group_send("everyone", {"type": "greeting", "text": "hello"})

    with asyncio.Runner() as runner:
        runner.run(talk())
        outage.endure(lambda: runner.run(speak()))
        runner.run(layer.flush())
        runner.run(talk())
        runner.run(layer.close_pools())

    async def speak_and_close():
        await speak()
        await layer.close_pools()

    print("a loop for each call")
    outage.endure(lambda: asyncio.run(speak_and_close()))
