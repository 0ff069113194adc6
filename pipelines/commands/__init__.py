"""The commands: each checks all of its options, then calls one function. Heavy imports wait until then."""
