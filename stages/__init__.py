"""What DUET does, one folder per step of the flow; `pipeline` runs it."""
