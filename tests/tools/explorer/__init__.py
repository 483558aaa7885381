"""An explorer of the ledger: every state that two relay processes, a client and a clock can reach, one by one.

`make explore` visits all of one run with a fault or a cancel, and up to 400,000 of each other search; `make test` a
part of them. The ledger is the real one, on SQLite, and so are the worker's decisions: what to claim, whether what it
owns is still its own, what to recover, when to beat. The calls that a job makes between the claim and the end are
written here as steps. Between any two statements a process may die, stop, stand still for as long as the clock likes,
or lose the answer to a commit; a request may arrive although its sender is dead, and an answer come late; the database
may be set back to an earlier commit; a client may repeat its start, or cancel.

======== ===========================================================================================================
store    the ledger's calls, as functions from one content of the database to the next
process  what a process remembers, and what its worker decides
state    a state of everything, and the limits of a search
world    all that can happen next
search   breadth first through everything, and what must hold in each state
mutants  the ledger with one condition broken: each is found, or shown to be equivalent
======== ===========================================================================================================

What must hold:

* a run is executed at most once; one that is queued or marked `unsent` was not, one that is completed was;
* what has ended does not change, and a wish to stop that was taken stays until the end;
* nothing is taken from a process whose lease holds;
* from every state an end can be reached without a further fault.

Excused, as the documents say: a ledger that was set back to before a run was sent, and nobody who sends it again could
know: its sender was gone, or had a whole lease to say so and did not, or the other's own lease does not tell.

Time is coarse (a lease is fresh, no longer good for sending, or over), a claim is one step, and one process at a time
checks or recovers: what is left out orders reads alone.
"""
