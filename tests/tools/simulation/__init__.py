"""A deterministic simulation of the whole: relays, clients, a gateway, and everything that goes wrong between them.

`make simulate [SEEDS=200]` runs seeds; `make simulate SEED=7` replays one and prints its history. In one process, in
virtual time, the real code runs: two relays (worker, jobs, HTTP routes, the ledger on SQLite) and the library's clients
(starts, waits, event streams, cancels, conversations that call for research). Everything around them is simulated:

========= ==========================================================================================================
loop      the event loop in virtual time; processes that die or stand still between any two steps
chance    the one place where time and randomness enter: a seed replays exactly, in any process
disk      the database in the loop's own thread; lost answers, failures, a ledger that is set back
network   requests in memory between the processes; broken connections, lost requests and answers
gateway   bills each create that it executes; slow, failing, or hidden behind a proxy's pages
plan      what a seed draws: settings, users, and what goes wrong when
faults    does what the plan wants to go wrong
users     what programs and people do with the library
world     puts it all together and lets it run until nothing is left to happen
reconcile compares the ledger, the gateway's books and what users were told
mutants   breaks guards of the product: `make simulate ARGS=--mutants` must find each
========= ==========================================================================================================

What must hold in the end, whatever went wrong:

* a run is submitted at most once, unless the gateway has certainly refused it;
* every accepted run ends, and what has ended does not change;
* what is called cancelled or failed was not paid to its end, unless the record says that this is not known, and then
  for a reason; a run is stopped only if somebody wanted it or it was followed for too long, and a wish to stop is kept;
* every user has the answer to the own question, or an exception that holds what continues.

Time is virtual by a selector that never waits. (The package looptime patches a loop for tests; here the loop's steps
must be seen as well, for a process to die at any of them.)
"""
