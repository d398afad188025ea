"""A process that stores, changes and deletes memories until it is killed, and says what it does on its standard output.

Each line is JSON: ["try", memory, action, content] before a call, ["ok", memory, action, content, durability] after it.
`memory` is a name of its own that stands in its metadata.
"""

from __future__ import annotations

import json
import random
import sys
import threading

from agent_memory.memory import (
    DurabilityError,
    IntermediateSettings,
    MaintenanceSettings,
    MemorySettings,
    MemoryStoreUnavailableError,
    MemorySystem,
    ShortTermSettings,
    SyncSettings,
)
from agent_memory.redis import Redis

AGENT = "agent"
SETTINGS = MemorySettings(
    short_term=ShortTermSettings(max_entries=8),
    intermediate=IntermediateSettings(max_entries=8),
    sync=SyncSettings(interval_s=0.02),
    maintenance=MaintenanceSettings(interval_s=0.05, pause_s=0.0),
    journal=True,
)
_output = threading.Lock()


def say(*words):
    with _output:
        sys.stdout.write(json.dumps(words) + "\n")
        sys.stdout.flush()


def work(memory, name, seed):
    chance = random.Random(seed)
    own = []  # memories of this thread that are alive as far as it knows: (id, name)
    number = 0
    while True:
        number += 1
        content = f"{name} {seed} {number}"
        durability = chance.choice(("sql", "redis", "journal"))
        kind = chance.random()
        target = chance.choice(own) if own else None
        try:
            if target is None or kind < 0.45:
                label = f"{name}-{seed}-{number}"
                say("try", label, "store", content)
                stored = memory.store(
                    AGENT,
                    content,
                    metadata={"label": label},
                    durability=durability,
                    minimum="journal",
                    embedding=[1.0, number],
                )
                say("ok", label, "store", content, stored.durability)
                own.append((stored, label))
            elif kind < 0.75:
                say("try", target[1], "update", content)
                changed = memory.update(AGENT, target[0], content=content, minimum="journal")
                say("ok", target[1], "update", content, changed.durability)
            elif kind < 0.85:
                own.remove(target)
                say("try", target[1], "delete", "")
                memory.delete(AGENT, target[0])
                say("ok", target[1], "delete", "", "sql")
            elif kind < 0.95:
                memory.get(AGENT, target[0])
            else:
                memory.retrieve(AGENT, name, k=3)
        except (DurabilityError, MemoryStoreUnavailableError):
            pass
        except KeyError:
            # No other thread deletes the memories of this one.
            say("missing", target[1], "delete" if 0.75 <= kind < 0.85 else "read", "")


def main():
    path, store, connection, seed = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), int(sys.argv[4])
    with (
        Redis(**connection, socket_timeout=2) as client,
        MemorySystem(path, redis=client, store=store or None, config=SETTINGS) as memory,
    ):
        memory.start()
        threads = [threading.Thread(target=work, args=(memory, f"t{n}", seed), daemon=True) for n in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main()
