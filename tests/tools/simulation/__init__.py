"""Deterministic simulation of the system: relays, clients, a gateway, and every failure between them.

`make simulate [SEEDS=200]` runs seeds; `make simulate SEED=7` replays one and prints its history. In one process, in
virtual time, the real code runs: two relays (worker, jobs, HTTP routes, the ledger on SQLite) and the library's clients
(starts, waits, event streams, cancels, conversations that call for research). Everything around them is simulated:

========= ==========================================================================================================
loop      the event loop in virtual time; processes that die or stand still between any two steps
chance    the only source of time and randomness: a seed replays exactly, in any process
disk      the database in the loop's own thread; lost answers, failures, a ledger that is set back
network   requests in memory between the processes; broken connections, lost requests and answers
gateway   bills each create that it executes; slow, failing, or hidden behind a proxy's pages
plan      the settings, users and faults that a seed draws
faults    carries out the faults of a plan
users     programs and people that use the library
world     assembles the parts and runs them until nothing is left to happen
reconcile compares the ledger, the gateway's books and the users' results
mutants   breaks guards of the product: `make simulate ARGS=--mutants` must find each
========= ==========================================================================================================

Invariants at the end of every seed:

* a run is submitted at most once, unless the gateway has certainly refused it;
* every accepted run reaches a terminal state, and never leaves it;
* a cancelled or failed run was not paid to its end, unless its record says that the outcome is unknown, and for a valid
  reason; a run is stopped only on request or at its time limit, and a request to stop is never lost;
* every user has the answer to their question, or an exception with all that it takes to continue.

A selector that never waits makes time virtual. (The package looptime patches a loop for tests; here each step of the
loop must be visible as well, so that a process can die at any of them.)
"""
