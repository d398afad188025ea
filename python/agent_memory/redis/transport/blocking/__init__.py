"""The transport of the synchronous client: a list of idle blocking sockets.

From the bottom up; each module imports those above it only.

- `channel`: one connected socket with its buffer and its reply reader.
- `exchange`: bytes out and in on one channel, within a deadline; what a broken stream says about the command.
- `opening`: connect, handshake, greeting.
- `recall`: channels in use that are retired, or have to authenticate anew, when they come back.
- `pool`: which channels are idle, in use, being opened; the bound, and the waiters for a channel.
- `transport`: the commands, with the hot path (`BlockingTransport.call`) and the rules.
"""
