"""Networks: layouts -> encoders -> heads, together a policy."""
