"""Many machines, by Ray: samplers on them, clusters and jobs, and the token that guards both."""
