"""What a subscriber has to know beside its connection: which reply answers what, and what an outage cost."""
