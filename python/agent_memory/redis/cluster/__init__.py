"""Redis Cluster on this package's transports: routing, redirects, failovers, pipelines.

redis-py supplies the commands and the objects that users see (`nodes_manager`, `ClusterNode`, policies); the core
decides which node a command goes to, and what a redirect or a failure means.
"""
