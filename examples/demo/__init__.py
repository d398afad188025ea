"""The demonstration: a real server that stalls, dies and comes back under load, and what the clients make of it.

Run it with `make demo`, or with `PYTHONPATH=examples python -m demo` where the extra `demo` is installed.

Parts
- `settings`: how long each phase takes. `comparison`: the first phase, beside redis-py.
- `ledger`: what the clients promised. `worker`: what one caller does next. `traffic`: the callers, as threads and tasks.
- `scenes`: the phases, and what happens to the server in each. `witness`: redis-py through the same outage.
- `agent`: an agent whose memory goes through outages of its own. `stories`: its facts and questions. `agent_ledger`: what
  it was promised, against the database.
- `recorder`: everything that was measured. `figures`: what it amounts to. `verdict`: the promises against the database.
- `dashboard`: the terminal. `drawing`, `timeline`, `bars`, `agent_picture`, `report`: the picture.
"""
