"""The servers that `comms up` and the tests bring along: Kafka, PostgreSQL, Valkey, identity, mail.

Each server's module has one function, ``prepare(home, ...) -> Part``: it makes what the server needs on
disk and returns how to run it. ``supervisor`` keeps parts running; ``stack`` says which parts there are.
"""
