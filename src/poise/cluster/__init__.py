"""Many machines, by Ray: describing and starting clusters, submitting runs, and the token that
guards both."""
