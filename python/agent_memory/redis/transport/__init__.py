"""The two transports, which send packed commands and return replies: different machines behind similar faces.

- `blocking`: a list of idle sockets, for threads.
- `multiplexed`: one shared connection per event loop, for asyncio.
- `common`, `failures`, `proof`: what both need. Neither transport imports the other.
"""
