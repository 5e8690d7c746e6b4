package engine

// protections are what a worker may be without in the controls of fault tests:
// each must then lose or repeat what it keeps whole otherwise, or the test is
// blind. Nothing but tests sets any.
type protections struct {
	RecordFirst bool // the record before the ack: a task is acknowledged before it runs, as many engines do
	NakDelay    bool // the delay of what is handed back, which outlives the broker's leader
	Lease       bool // the end of a lease: its handler goes on, and its outcome is tried to be written
}
