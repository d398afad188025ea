"""The transport of the asyncio client: one shared connection per event loop.

From the bottom up; each module imports those above it only.

- `order`: which keys the unanswered commands of a connection touch.
- `marks`: what is remembered of each write, and what follows from it when the connection ends.
- `replies`: where a reply is matched to its caller.
- `deadlines`: the sweep that fails late commands and notices a silent server.
- `departures`: whether a large write leaves the socket.
- `health`: the PING on an idle connection.
- `connection`: one connection made of these, with the write of this iteration.
- `waits`, `opening`: connect, handshake, greeting, renewed credentials; waits that end when the client closes.
- `admission`: callers that wait for their turn.
- `leases`: connections of one call, and the places that bound them.
- `replacement`: connecting with pauses, and the suspect that waits for its replacement.
- `second`: the second connection, while the shared one carries something large.
- `windows`: pipelines.
- `transport`: the face that joins them, with the states of a connection and the rules.
"""
