"""redis-py's internals: the one place that touches names of redis-py that are not public API.

redis-py connects and handshakes; the transports take over the socket afterwards. Nothing else in the package imports a private
module of redis-py or reads a private attribute of its objects, so a new redis-py is checked by reading this folder. What
differs between the versions in use stands in `features.py`.
"""
