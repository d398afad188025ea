"""What the drop-in clients have in common, for asyncio."""
