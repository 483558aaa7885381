"""An explorer of the ledger: it visits every state that two relay processes, a client and a clock can reach.

`make explore` visits all states of one run with a fault, of one run with a cancel, and of two runs; `make test`
visits a part of them. The ledger is the real one, on SQLite, and so are the worker's decisions: which runs to claim,
which ones it still owns, which ones to recover, and when to send a heartbeat. The calls that a job makes between its
claim and its end are modelled as steps. Between any two statements a process may die, stop, freeze for any time, or
lose the answer to a commit; a request may arrive although its sender is dead, and an answer may come late; the
database may be set back to an earlier commit; a client may repeat its start, or cancel.

======== ===========================================================================================================
store    the ledger's calls, as functions from one content of the database to the next
process  the memory of a process, and the decisions of its worker
state    a state of the whole model, and the limits of a search
world    the possible next steps of a state
symmetry states that differ in names alone are one state
search   breadth-first search, and the invariants of each state
mutants  the ledger with one condition broken: each is found, or shown to be equivalent
======== ===========================================================================================================

Invariants:

* a run is executed at most once; a queued or `unsent` run was never executed, a completed one was;
* a terminal run does not change, and an accepted request to stop is kept until the end;
* no run is taken from a process whose lease holds;
* from every state the end can be reached without a further fault.

Excused, as the documents say: the ledger was set back to before a run was sent, and the process that sends it again
could not know: the sender was gone, or did not report it within a whole lease, or the other's lease does not show the
set-back.

Time is coarse (a lease is fresh, too old for sending, or over), a claim is one step, and only one process at a time
checks or recovers: the orders left out differ in reads alone.
"""
