"""Exactly once: writes whose answer was lost are resolved, and nothing overtakes what an old connection may still execute.

A server executes a prefix of a connection's byte stream. When an answer is lost two questions decide everything: can the old
connection still execute something, and did this write get in? The answers come from the core (`agent_memory_core::fence`
opens with its states and rules); this package asks the server for what the core has to know, and does what it says.

States of a connection (`tickets.Stream`)
- *greeted*: right after the handshake, in one more round trip, we learn its number and address (CLIENT INFO), the server
  process it goes to (`run_id`), what we may do there, and create the key of its marker.
- *unresolved*: it ended with unanswered commands that may have been executed, or still may be.
- *fenced*: nothing of it will be executed any more (CLIENT KILL, or the server's clock at the level of the gate), or the
  process it went to is not the one we are connected to.
- *resolved*: each of its lost writes has a verdict.

Rules
- Fencing and resolving belong to the handshake of the replacement: before an unresolved connection is fenced nothing else is
  sent to the server, so nothing can be overtaken. Where another connection is already in use (asyncio, after a leased one
  broke) the CLIENT KILL goes into its stream at once, ahead of everything later.
- Absolute writes travel as always and cost nothing more. After a failure they are sent again once the fence stands.
- Relative writes, writes of several keys, scripts and MULTI … EXEC carry what tells whether they were executed: at the level
  of the marker a SETBIT in the same transaction; at the level of the offset nothing (the server counts bytes); at the level of
  the gate (for which absolute writes, too, are taken) a script that looks at the server's clock and at the bit.
- A write is sent again only when it is proven that it was not executed. If it was, its caller gets the error of the
  connection with outcome APPLIED: the write is done, its reply is lost. If nothing proves either, the outcome stays UNKNOWN and
  `error.ticket.verdict` is UNRESOLVABLE.

Limits
- The keys of the markers (`ExactlyOnce.marker_prefix`, 8 KiB at the most, at most two per connection) are in the database of
  the client, expire after `ExactlyOnce.marker_ttl_s` seconds, and are deleted when they are done with.
- Blocking commands, commands that change their connection, commands that change no data (CONFIG SET, PUBLISH) and pipelines
  without MULTI are fenced, not resolved.
- What a server refuses (out of memory, wrong type) while the answer is lost counts as executed at the level of the offset.
- asyncio: each event loop fences its own connections. A client in several loops is several clients.
"""

from agent_memory.redis.exactly_once.settings import ExactlyOnce, Level
from agent_memory.redis.exactly_once.tickets import Ticket, Verdict

__all__ = ["ExactlyOnce", "Level", "Ticket", "Verdict"]
