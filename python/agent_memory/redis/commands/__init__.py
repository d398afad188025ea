"""What a command is before it is sent: categories, keys, routes, packing, deadlines; and how its reply is shaped."""
